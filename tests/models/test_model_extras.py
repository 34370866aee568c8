"""What a server loads beside its model: on its command line, in its files, in its hash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploys.common.operations import UnknownStateError
from deploys.llama_server import chat_template
from deploys.llama_server.arguments import arguments
from deploys.llama_server.errors import ServerError
from deploys.llama_server.extras import adapter_values, draft_values
from deploys.llama_server.files import obsolete_files, server_files
from deploys.llama_server.instance import Instance
from deploys.llama_server.unit import config_hash, render_unit
from deploys.models import fetches
from inventories.llama_options import managed
from inventories.settings import (
    Adapter,
    Artifact,
    DraftSettings,
    ModelSettings,
    SecretReference,
    ServerSettings,
)

MODEL = ModelSettings(
    "big", "Big", "/m/big", (Artifact("big.gguf", 9, "a" * 64, url="http://h/b"),)
)
SMALL = ModelSettings(
    "small", "Small", "/m/small", (Artifact("small.gguf", 1, "b" * 64, url="http://h/s"),)
)
SERVER = ServerSettings("coder", "big", 8888, 8192, draft=DraftSettings("small", max=16, p_min=0.5))
# What two generations of llama-server know.
LIMITS = {"--draft-max", "--draft-min"}  # newer ones know them as removed
OLD = frozenset({"--model-draft", "--draft-p-min", "--gpu-layers-draft", *LIMITS})
NEW = OLD | {
    "--spec-type",
    "--spec-draft-model",
    "--spec-draft-n-max",
    "--spec-draft-n-min",
    "--spec-draft-p-min",
    "--spec-draft-ngl",
}
EVERYTHING = DraftSettings("small", max=16, min=2, p_min=0.75, gpu_layers="all")


def instance(**changes: object) -> Instance:
    made = Instance(SERVER, MODEL, "/opt/llama.cpp/b1/bin/llama-server", NEW, False, draft=SMALL)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_draft_models_options_are_spelled_as_the_build_knows_them() -> None:
    assert draft_values("coder", EVERYTHING, SMALL, NEW) == {
        "--spec-type": "draft-simple",
        "--spec-draft-model": "/m/small/small.gguf",
        "--spec-draft-n-max": "16",
        "--spec-draft-n-min": "2",
        "--spec-draft-p-min": "0.75",
        "--spec-draft-ngl": "all",
    }
    assert draft_values("coder", EVERYTHING, SMALL, OLD) == {
        "--model-draft": "/m/small/small.gguf",
        "--draft-max": "16",
        "--draft-min": "2",
        "--draft-p-min": "0.75",
        "--gpu-layers-draft": "all",
    }
    assert draft_values("coder", EVERYTHING, SMALL, frozenset()) == draft_values(
        "coder", EVERYTHING, SMALL, NEW
    )


def test_an_old_build_whose_types_are_no_draft_models_isnt_told_one() -> None:
    options = OLD | {"--spec-type"}  # ngram-* alone, at the time
    assert "--spec-type" not in draft_values("coder", EVERYTHING, SMALL, options)


def test_what_a_build_cannot_do_names_the_setting() -> None:
    with pytest.raises(ServerError, match=r"servers\.coder\.draft\.min: .* neither --spec-draft-n"):
        draft_values("coder", EVERYTHING, SMALL, OLD - {"--draft-min"})
    with pytest.raises(ServerError, match=r"servers\.coder\.draft\.type: .* draft-simple alone"):
        draft_values("coder", replace(EVERYTHING, type="draft-eagle3"), SMALL, OLD)


def test_a_draft_model_is_on_the_command_line_and_in_the_hash() -> None:
    line = arguments(instance())
    assert line[line.index("--spec-draft-model") + 1] == "/m/small/small.gguf"
    other = replace(SMALL, files=(replace(SMALL.files[0], sha256="c" * 64),))
    hashes = {config_hash(render_unit(instance(draft=model))) for model in (SMALL, other)}
    assert len(hashes) == 2


def test_adapters_come_with_their_scales() -> None:
    adapters = (Adapter("a", "adapters/a.gguf"), Adapter("b", "adapters/b.gguf", 0.25))
    model = replace(MODEL, adapters=adapters)
    assert adapter_values(model) == {
        "--lora-scaled": "/m/big/adapters/a.gguf:1,/m/big/adapters/b.gguf:0.25"
    }
    line = arguments(instance(model=model))
    assert "--lora-scaled" in line
    assert adapter_values(MODEL) == {}


def test_a_chat_template_is_a_file_of_the_server_and_in_the_hash() -> None:
    made = instance(chat_template="{{ messages }}")
    line = arguments(made)
    path = line[line.index("--chat-template-file") + 1]
    files = {file.path: file for file in server_files(made)}
    assert files[path].content == "{{ messages }}"
    assert line.index("--jinja") < line.index("--chat-template-file")
    assert path in obsolete_files([instance()])
    assert path not in obsolete_files([made])
    other = render_unit(instance(chat_template="{{ message }}"))
    assert config_hash(other) != config_hash(render_unit(made))


def test_a_template_is_read_here_when_it_is_needed(tmp_path: Path) -> None:
    server = replace(SERVER, chat_template_file=str(tmp_path / "t.jinja"))
    with pytest.raises(UnknownStateError, match=r"coder\.chat_template_file: .*t\.jinja can't be"):
        chat_template(server)
    (tmp_path / "t.jinja").write_bytes(b"\xff")
    with pytest.raises(UnknownStateError, match="no UTF-8"):
        chat_template(server)
    (tmp_path / "t.jinja").write_text("{{ é }}", encoding="utf-8")
    assert chat_template(server) == "{{ é }}"
    assert chat_template(SERVER) is None


def test_each_token_has_a_transfer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_TOKEN", "home")
    monkeypatch.setenv("AWAY_TOKEN", "away")
    files = tuple(Artifact(name, 1, name * 64, url=f"http://h/{name}") for name in "abcd")
    model = replace(
        MODEL,
        files=files,
        token=SecretReference(env="HOME_TOKEN"),
        adapters=(Adapter("c", "c", token=SecretReference(env="AWAY_TOKEN")), Adapter("d", "d")),
    )
    found = {made.header: made for made in fetches(model, files)}
    names = {header: [file.name for file in made.artifacts] for header, made in found.items()}
    assert names == {
        "Authorization: Bearer home": ["a", "b"],
        "Authorization: Bearer away": ["c"],
        None: ["d"],
    }
    assert len({made.name for made in found.values()}) == 3


@pytest.mark.parametrize("argument", ["--spec-type", "--draft-max", "-ngld", "--draft-p-min=0.5"])
def test_an_extra_argument_beside_a_draft_model_is_refused(argument: str) -> None:
    assert managed(argument, {"draft": {"model": "small"}}) is not None
    assert managed(argument, {}) is None

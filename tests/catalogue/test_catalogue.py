"""The catalogue's facts are whole and sourced, and a fleet may take them up and override them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from inventories import catalogue
from inventories.fleet import Fleet, load_fleet
from inventories.lock import Lock, SourcePin, check_lock, model_request, requests_of
from inventories.settings import Sampling
from llamaherd.cli import main
from schemas.problems import ProblemsError
from schemas.validate import load_schema

SCHEMA = load_schema("catalogue.schema.json")


def fleet(tmp_path: Path, model: str) -> Fleet:
    """A fleet whose model ``coder`` is written so."""
    path = tmp_path / "fleet.yaml"
    path.write_text(f"version: 1\nmodels:\n  coder: {model}\nhosts:\n  a: {{}}\n")
    return load_fleet(path)


def problems(tmp_path: Path, model: str) -> list[str]:
    """What is wrong with such a fleet."""
    with pytest.raises(ProblemsError) as caught:
        fleet(tmp_path, model)
    return [str(problem).removeprefix(str(tmp_path)) for problem in caught.value.problems]


@pytest.mark.parametrize("name", catalogue.names())
def test_every_entry_is_valid_by_its_schema(name: str) -> None:
    path = catalogue.FOLDER / f"{name}.yaml"
    jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), SCHEMA)
    entry = catalogue.load_entry(path)
    assert entry.name == name
    assert entry.quantization(entry.quant) is not None


@pytest.mark.parametrize("name", catalogue.names())
def test_every_entry_is_complete_or_says_why_not(name: str) -> None:
    entry = catalogue.entry(name)
    missing = {f"sampling.{use}" for use in ("agent", "chat")}
    missing -= {f"sampling.{use}" for use in entry.sampling}
    if len(entry.quantizations) < 3:
        missing.add("quantizations")
    assert missing == set(entry.left_out)
    assert ("interleaved" in entry.opencode) == entry.reasoning
    # Agents need tools: whoever has values for them calls tools, too.
    assert entry.opencode["tool_call"] or "agent" not in entry.sampling


@pytest.mark.parametrize("name", catalogue.names())
def test_the_lowest_build_is_that_of_a_change_to_llama_cpp(name: str) -> None:
    entry = catalogue.entry(name)
    pull = r"https://github\.com/ggml-org/llama\.cpp/pull/([1-9]\d+)"
    found = re.fullmatch(pull, entry.sources["llama_cpp"])
    assert found
    # Numbers of pull requests and of builds grow with each other; a slip of a digit shows.
    assert 1.7 < int(found[1]) / entry.build < 3.5
    assert 1600 < entry.build < 20_000


@pytest.mark.parametrize("name", catalogue.names())
def test_more_bits_take_more_bytes(name: str) -> None:
    entry = catalogue.entry(name)
    sizes = [
        item.size
        for quant in ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
        for item in entry.quantizations
        if item.name.removeprefix("UD-") == quant
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def test_the_families_that_people_ask_for_are_there() -> None:
    wanted = ("glm-4.7-flash", "nemotron", "qwen3-coder", "gpt-oss", "devstral", "gemma")
    wanted += (
        "granite",
        "mixtral",
        "llama-3.1",
        "qwen3.6",
        "qwen3.8",
        "gemma-4",
        "devstral-small-2",
    )
    for family in wanted:
        assert any(name.startswith(family) for name in catalogue.names()), family


@pytest.mark.parametrize("name", catalogue.names())
def test_layers_and_sizes_add_up(name: str) -> None:
    entry = catalogue.entry(name)
    layers = sum(group.layers for group in entry.shape.cache)
    layers += entry.shape.state.layers if entry.shape.state else 0
    assert layers <= entry.shape.layers
    for quantization in entry.quantizations:
        found = entry.dimensions_of(quantization)
        assert found.weights is not None
        tied = entry.details.get("tied", False)
        file = found.weights.input + found.weights.device
        file -= found.weights.output if tied else 0
        assert file == pytest.approx(quantization.size, rel=0.001)
        # Between one and seventeen bits a parameter: no slip of a digit.
        assert 1 < quantization.size * 8 / entry.details["parameters"] < 17


def test_sampling_is_what_a_fleet_may_write() -> None:
    for entry in catalogue.entries():
        for values in entry.sampling.values():
            assert Sampling(**values)  # type: ignore[arg-type]


def test_a_model_takes_up_repository_sampling_and_reasoning(tmp_path: Path) -> None:
    model = fleet(tmp_path, "{catalogue: glm-4.7-flash}").models["coder"]
    assert model["hub"]["repo"] == "unsloth/GLM-4.7-Flash-GGUF"
    assert model["hub"]["quant"] == "UD-Q4_K_XL"
    assert model["sampling"]["temperature"] == 0.7
    assert model["reasoning"] is True


def test_what_opencode_and_the_build_need_comes_along(tmp_path: Path) -> None:
    fleet_ = fleet(tmp_path, "{catalogue: gpt-oss-20b}")
    model = fleet_.models["coder"]
    assert model["interleaved"] == "reasoning_content"
    assert (model["tool_call"], model["llama_cpp_build"]) == (True, 8112)
    place = fleet_.model_origins["coder"]["llama_cpp_build",]
    line = Path(place.file).read_text("utf-8").splitlines()[place.line - 1]
    assert line.strip() == "build: 8112"
    own = "{catalogue: gpt-oss-20b, tool_call: false, llama_cpp_build: null}"
    model = fleet(tmp_path, own).models["coder"]
    assert model["tool_call"] is False
    assert "llama_cpp_build" not in model


def test_its_own_values_lie_over_the_catalogues(tmp_path: Path) -> None:
    text = (
        "{catalogue: glm-4.7-flash, hub: {quant: Q4_K_M}, reasoning: false, "
        "sampling: {temperature: 0.2, min_p: null}}"
    )
    model = fleet(tmp_path, text).models["coder"]
    assert model["hub"]["repo"] == "unsloth/GLM-4.7-Flash-GGUF"
    assert model["hub"]["quant"] == "Q4_K_M"
    assert model["reasoning"] is False
    assert model["sampling"] == {"temperature": 0.2, "top_p": 1.0, "repeat_penalty": 1.0}


def test_a_source_of_its_own_replaces_the_catalogues(tmp_path: Path) -> None:
    text = "{catalogue: glm-4.7-flash, url: https://files.example.com/glm.gguf, sha256: " + (
        f"'{'ab' * 32}'}}"
    )
    model = fleet(tmp_path, text).models["coder"]
    assert "hub" not in model
    assert model["sampling"]["temperature"] == 0.7
    text = "{catalogue: glm-4.7-flash, hub: {file: GLM-4.7-Flash-Q6_K.gguf}}"
    hub = fleet(tmp_path, text).models["coder"]["hub"]
    assert (hub["repo"], "quant" in hub) == ("unsloth/GLM-4.7-Flash-GGUF", False)


def test_origins_name_the_catalogues_file_and_line(tmp_path: Path) -> None:
    text = "{catalogue: glm-4.7-flash, sampling: {temperature: 0.2}}"
    origins = fleet(tmp_path, text).model_origins["coder"]
    repo, temperature = origins["hub", "repo"], origins["sampling", "temperature"]
    assert Path(temperature.file).name == "fleet.yaml"
    line = Path(repo.file).read_text("utf-8").splitlines()[repo.line - 1]
    assert Path(repo.file).name == "glm-4.7-flash.yaml"
    assert line[repo.column - 1 :].startswith("unsloth/GLM-4.7-Flash-GGUF")


def test_the_lock_asks_for_what_the_catalogue_says(tmp_path: Path) -> None:
    plain = "{hub: {repo: unsloth/GLM-4.7-Flash-GGUF, quant: UD-Q4_K_XL}}"
    written = model_request(fleet(tmp_path, plain), "coder")
    assert model_request(fleet(tmp_path, "{catalogue: glm-4.7-flash}"), "coder") == written


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{catalogue: glm-4.7-flahs}", "3:22: models.coder.catalogue: the catalogue has no model"),
        ("{catalogue: glm-4.7-flahs}", "did you mean glm-4.7-flash?"),
        ("{catalogue: ../secret}", "is not a name of the catalogue"),
        ("{reasoning: true}", "3:3: models.coder: needs exactly one of hub, url and path"),
        ("{hub: {quant: Q4_K_M}}", "3:11: models.coder.hub: repo is missing"),
        ("{hub: {repo: a/b}}", "models.coder.hub: needs exactly one of quant and file"),
        ("{hub: {repo: a/b, quant: Q4, file: x.gguf}}", "quant and file exclude each other"),
    ],
)
def test_mistakes_are_found_where_they_are(tmp_path: Path, model: str, message: str) -> None:
    assert any(message in problem for problem in problems(tmp_path, model))


def test_a_bad_entry_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("title: Odd\nhub: {repo: nowhere, quant: Q4}\nsize: 3\n")
    with pytest.raises(ProblemsError) as caught:
        catalogue.load_entry(path)
    text = str(caught.value)
    assert re.search(r"odd\.yaml:3:1: size: ", text)
    assert "description is missing" in text


# The lowest build --------------------------------------------------------------------------------


def served(tmp_path: Path, build: str, model: str = "{catalogue: gpt-oss-20b}") -> Path:
    """A fleet of two like hosts that serve a model with such a ``llama_cpp``."""
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "version: 1\n"
        f"models:\n  coder: {model}\n"
        "defaults:\n"
        "  cuda: {provider: none}\n"
        f"  llama_cpp: {build}\n"
        "  servers: {main: {model: coder, port: 8080}}\n"
        "hosts:\n  one: {}\n  two: {}\n"
    )
    return path


ARCHIVE = f"{{archive: {{path: x.tar.gz, sha256: {'ab' * 32}}}, commit: 0c1e570, build_number: %d}}"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            "{ref: b8111}",
            "fleet.yaml:6:20: hosts.one.llama_cpp.ref: build 8111 is too old for the model coder, "
            "which needs b8112 or newer (models.coder.llama_cpp_build): set llama_cpp to a newer "
            "build (and on 1 more host)",
        ),
        (ARCHIVE % 8111, ": hosts.one.llama_cpp.build_number: build 8111 is too old"),
    ],
)
def test_a_build_that_is_too_old_is_refused_where_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], build: str, message: str
) -> None:
    path = served(tmp_path, build)
    assert main(["validate", str(path)]) == 1
    out, err = capsys.readouterr()
    assert message in out + err
    assert (out + err).count("too old") == 1


def test_a_routers_models_count_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = served(tmp_path, "{ref: b8111}")
    text = path.read_text().replace("model: coder", "models: {coder: {context: 8192}}")
    path.write_text(text)
    with pytest.raises(ProblemsError, match="build 8111 is too old for the model coder"):
        load_fleet(path)
    path.write_text(text.replace("ref: b8111", "ref: master"))
    assert [p for p in check_lock(*pinned(path, 8111)) if "too old for the model coder" in str(p)]
    assert main(["models", str(path)]) == 0
    assert "one/main, two/main" in capsys.readouterr().out


def test_a_servers_own_build_is_the_one_that_counts(tmp_path: Path) -> None:
    path = served(tmp_path, "{ref: b8112}")
    text = path.read_text()
    path.write_text(text.replace("port: 8080", "port: 8080, llama_cpp: {ref: b8111}"))
    with pytest.raises(
        ProblemsError, match=r"hosts\.one\.servers\.main\.llama_cpp\.ref: build 8111"
    ):
        load_fleet(path)
    text = text.replace("ref: b8112", "ref: b8111")
    path.write_text(text.replace("port: 8080", "port: 8080, llama_cpp: {ref: b8112}"))
    assert load_fleet(path).hosts


@pytest.mark.parametrize(
    ("build", "model"),
    [
        ("{ref: b8112}", "{catalogue: gpt-oss-20b}"),
        ("{ref: b10000}", "{catalogue: gpt-oss-20b}"),
        (ARCHIVE % 8112, "{catalogue: gpt-oss-20b}"),
        # What only the lock knows, and what a fork counts its own way.
        ("{ref: master}", "{catalogue: gpt-oss-20b}"),
        ("{ref: b1, repository: 'https://git.example.com/fork'}", "{catalogue: gpt-oss-20b}"),
        ("{ref: b8111}", "{catalogue: gpt-oss-20b, llama_cpp_build: null}"),
        ("{ref: b8111}", "{catalogue: gpt-oss-20b, llama_cpp_build: 8000}"),
        ("{ref: b8111}", "{hub: {repo: acme/X-GGUF, quant: Q4_0}}"),
    ],
)
def test_a_build_that_is_new_enough_or_unknown_is_not(
    tmp_path: Path, build: str, model: str
) -> None:
    assert load_fleet(served(tmp_path, build, model)).hosts


def pinned(path: Path, number: int) -> tuple[Fleet, Lock]:
    """A fleet, and a lock in which its llama.cpp resolved to this build."""
    fleet_ = load_fleet(path)
    request = next(r for r in requests_of(fleet_) if r.kind == "llama_cpp")
    pin = SourcePin(request.body, commit="0c1e5700" * 5, build_number=number)
    return fleet_, Lock(llama_cpp={request.name: pin})


def test_a_locked_build_that_is_too_old_stops_a_converge(tmp_path: Path) -> None:
    path = served(tmp_path, "{ref: master}")
    found = [str(problem) for problem in check_lock(*pinned(path, 8111)) if "old" in str(problem)]
    assert len(found) == 1
    assert found[0].startswith(f"{path}:6:20: hosts.one.llama_cpp.ref: build 8111 is too old")
    assert not [p for p in check_lock(*pinned(path, 8112)) if "old" in str(p)]


# llamaherd models -------------------------------------------------------------------------------


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet with one model of the catalogue on two hosts."""
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "version: 1\n"
        "models:\n"
        "  coder: {catalogue: gpt-oss-20b}\n"
        "  idle: {hub: {repo: acme/Idle-GGUF, quant: Q4_0}}\n"
        "defaults:\n"
        "  cuda: {provider: none}\n"
        "  llama_cpp: {ref: b8146}\n"
        "  servers: {main: {model: coder, port: 8080}}\n"
        "hosts:\n  one: {}\n  two: {}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEET", raising=False)
    return path


def models(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What ``llamaherd models`` prints, no line wider than a terminal."""
    assert main(["models", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "--json" in words or all(len(line) <= 80 for line in out.splitlines())
    return out


def test_the_catalogue_is_listed_without_a_fleet(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = models(capsys)
    assert all(name in text for name in catalogue.names())
    assert "RUNS ON" not in text


def test_one_model_is_told_whole_with_its_sources(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--about", "glm-4.7-flash"]) == 0
    text = capsys.readouterr().out
    for said in ("16.3 GiB, the usual one", "about 29.7 GiB", "b7832 or newer", "temperature 0.7"):
        assert said in text
    for source in catalogue.entry("glm-4.7-flash").sources.values():
        assert source in text
    assert main(["models", "--about", "mixtral-8x7b"]) == 0
    assert "sampling.agent: it isn't made for agents" in capsys.readouterr().out
    assert main(["models", "--about", "glm"]) == 1
    assert "the catalogue has no model glm" in capsys.readouterr().err


def test_what_runs_where_is_listed_with_a_fleet(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = models(capsys, at.name).partition("Models of")[2].splitlines()
    assert next(row for row in rows if row.startswith("coder")).endswith("one/main, two/main")
    assert next(row for row in rows if row.startswith("idle")).endswith("nowhere")


def test_origins_are_listed_on_request(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = models(capsys, at.name, "--origin")
    assert re.search(r"hub\.repo +ggml-org/gpt-oss-20b-GGUF +gpt-oss-20b\.yaml:5", text)
    assert re.search(r"catalogue +gpt-oss-20b +fleet\.yaml:3", text)


def test_the_document_is_valid(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), (str(at),)):
        found = json.loads(models(capsys, *words, "--json"))
        jsonschema.validate(found, load_schema("models.report.schema.json"))
    assert found["models"][0]["servers"] == ["one/main", "two/main"]
    assert found["models"][0]["origins"]
    entry = next(known for known in found["catalogue"] if known["name"] == "llama-3.1-8b")
    known = {item["quant"]: (item["size"], item["approximate"]) for item in entry["quantizations"]}
    assert known["Q4_K_M"] == (4920739232, False)
    assert known["Q6_K"][1]

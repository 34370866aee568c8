"""``llamaherd fit``: a table for people, a document for programs, one line for what goes wrong."""

from __future__ import annotations

import functools
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from synthetic import glm_4_7_flash, gpt_oss_20b, llama, write_gguf

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "molecule" / "lab"))

from hub import Hub

from inventories import catalogue
from inventories.gguf import read_file_header
from inventories.lock import read_lock
from inventories.pinning.header import range_reader
from inventories.sizing.dimensions import dimensions_of
from llamaherd.cli import main
from llamaherd.fit_answers import choices_of
from schemas.validate import load_schema

TINY = llama(layers=4, width=256, heads=4, kv=2, head=64, inner=512, vocabulary=1000, context=8192)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No fleet file by default, no hub of the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLEET", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with a small model, whole and split."""
    folder = tmp_path / "hub" / "acme" / "Tiny-GGUF"
    folder.mkdir(parents=True)
    TINY.write(folder / "Tiny-Q4_K_M.gguf")
    split(folder, "Tiny-Q8_0")
    (folder / "Other-F16.gguf").write_bytes(b"GGUF" + bytes(5000))
    with Hub(tmp_path / "hub", large=1000) as server:
        yield server


def split(folder: Path, stem: str) -> None:
    """The small model in two files."""
    whole = folder / "whole.gguf"
    TINY.write(whole)
    header = read_file_header(whole)
    whole.unlink()
    entries = {**header.metadata, "split.count": 2}
    halves = (TINY.tensors[:20], TINY.tensors[20:])
    for number, tensors in enumerate(halves, 1):
        path = folder / f"{stem}-{number:05d}-of-00002.gguf"
        write_gguf(path, entries if number == 1 else {"split.count": 2}, tensors)


def fit(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What ``llamaherd fit`` prints."""
    code = main(["fit", *words])
    out, err = capsys.readouterr()
    assert code == status, out + err
    assert all(len(line) <= 80 for line in out.splitlines()) or "--json" in words
    return out


def document(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    """The document that ``--json`` prints, valid by its schema."""
    found: dict[str, Any] = json.loads(fit(capsys, *words, "--json", status=status))
    jsonschema.validate(found, load_schema("fit.report.schema.json"))
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that says why not."""
    assert main(["fit", *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_name_of_the_catalogue_is_answered_offline(capsys: pytest.CaptureFixture[str]) -> None:
    text = fit(capsys, "glm-4.7-flash", "--vram", "24G")
    assert "UD-Q4_K_XL" in text
    assert "Q5_K_M, q8_0 K/V" in text
    assert "Weights follow from the file's size" in text


def test_the_columns_add_up_to_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    rows = document(capsys, "glm-4.7-flash", "--vram", "2x12G")["rows"]
    assert len(rows) == 3 * len(catalogue.entry("glm-4.7-flash").quantizations)
    fitting = [row for row in rows if row["fits"]]
    assert len(fitting) >= 6
    for row in fitting:
        parts = row["bytes"]
        whole = sum(parts[key] for key in ("weights", "cache", "compute", "margin"))
        assert whole == parts["needed"] <= parts["available"] == 24 << 30


def test_glm_4_7_flash_at_65k_takes_what_the_recipe_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document(capsys, "glm-4.7-flash", "--vram", "24G", "--context", "65000", "--kv", "f16")
    row = next(row for row in found["rows"] if row["quant"] == "UD-Q4_K_XL")
    assert row["fits"]
    assert 20.4 < row["bytes"]["needed"] / (1 << 30) < 21


def test_what_does_not_fit_says_by_how_much_and_what_would(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = fit(capsys, "qwen3-coder-next", "--vram", "24G", "--context", "65536", status=1)
    assert "short" in text
    assert "--n-cpu-moe" in text
    text = fit(capsys, "gemma-3-27b", "--vram", "8G", status=1)
    assert text.count("none fits") == 1
    assert re.search(r"^8G +any +any +none fits$", text, re.MULTILINE)
    assert "take a smaller quantisation or more GPUs" in text


def test_a_quantisation_that_fits_with_no_type_of_cache_is_one_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = fit(capsys, "glm-4.7-flash", "--vram", "24G")
    assert re.findall(r"^24G +(\S+) +any +none fits$", text, re.MULTILINE) == ["Q8_0", "Q6_K"]
    assert len(re.findall(r"^24G +Q4_K_M +", text, re.MULTILINE)) == 3


def test_experts_on_the_cpu_make_it_fit(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, "qwen3-coder-next", "--vram", "24G", "--context", "65536", "--cpu-moe", "30"
    )
    assert found["recommendations"][0]["cpu_moe"] == 30


def test_without_gpus_the_usual_cards_are_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "gpt-oss-20b")
    assert [row["gpus"][0] >> 30 for row in found["rows"]][::3] == [16, 24, 32, 48]
    assert len(found["recommendations"]) == 4


def test_a_file_is_read_by_its_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpt_oss_20b().write(tmp_path / "gpt-oss-mxfp4.gguf")
    found = document(capsys, "gpt-oss-mxfp4.gguf", "--vram", "16G")
    assert (found["source"], found["estimated"]) == ("file", False)
    assert found["rows"][0]["quant"] == "mxfp4"
    assert found["rows"][0]["context"] == 131072


def test_all_files_of_a_split_model_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split(tmp_path, "tiny")
    TINY.write(tmp_path / "whole.gguf")
    halves = document(capsys, "tiny-00002-of-00002.gguf", "--vram", "4G")
    whole = document(capsys, "whole.gguf", "--vram", "4G")
    assert halves["rows"][0]["bytes"] == whole["rows"][0]["bytes"]
    (tmp_path / "tiny-00002-of-00002.gguf").unlink()
    assert "No such file" in refused(capsys, "tiny-00001-of-00002.gguf")
    (tmp_path / "tiny-00001-of-00002.gguf").rename(tmp_path / "alone.gguf")
    assert "one of 2 files of a split model" in refused(capsys, "alone.gguf")


def test_the_hub_answers_for_whole_and_split_models(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    rows = []
    for quant in ("Q4_K_M", "Q8_0"):
        found = document(capsys, f"acme/Tiny-GGUF:{quant}", "--vram", "4G")
        assert (found["source"], found["estimated"]) == ("hub", False)
        rows.append(found["rows"][0]["bytes"])
    assert rows[0] == rows[1]


def test_only_what_is_asked_for_is_fetched(hub: Hub, tmp_path: Path) -> None:
    whole = (tmp_path / "hub/acme/Tiny-GGUF/Tiny-Q4_K_M.gguf").read_bytes()
    read = range_reader(f"{hub.url}/acme/Tiny-GGUF/resolve/main/Tiny-Q4_K_M.gguf")
    assert read(100, 50) == whole[100:150]
    assert read(len(whole) - 5, 50) == whole[-5:]
    assert read(len(whole) + 5, 50) == b""


def test_an_address_is_read_by_range(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{hub.url}/acme/Tiny-GGUF/resolve/main/Tiny-Q4_K_M.gguf"
    found = document(capsys, url, "--vram", "4G")
    assert (found["source"], found["architecture"]) == ("url", "llama")


FLEET = """\
version: 1
models:
  tiny: {{hub: {{repo: acme/Tiny-GGUF, quant: Q4_K_M, endpoint: "{url}"}}}}
  flash: {{catalogue: glm-4.7-flash}}
hosts:
  a: {{}}
"""


def test_a_fleets_model_is_answered_by_the_lock_with_the_hub_gone(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = tmp_path / "fleet.yaml"
    text = FLEET.format(url=hub.url)
    fleet.write_text("".join(line for line in text.splitlines(True) if "flash" not in line))
    assert main(["lock", str(fleet)]) == 0
    lock = read_lock(fleet)
    assert lock is not None
    header = read_file_header(tmp_path / "hub/acme/Tiny-GGUF/Tiny-Q4_K_M.gguf")
    assert lock.models["tiny"].dimensions == dimensions_of([header], "tiny")
    hub.shutdown()
    capsys.readouterr()
    found = document(capsys, "tiny", "--fleet", str(fleet), "--vram", "4G")
    assert (found["source"], found["estimated"]) == ("lock", False)


def test_before_the_lock_the_catalogue_answers_or_the_lock_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET.format(url="http://127.0.0.1:9"))
    found = document(capsys, "flash", "--fleet", str(fleet), "--vram", "24G")
    assert (found["source"], found["rows"][0]["quant"]) == ("catalogue", "UD-Q4_K_XL")
    assert f"run: llamaherd lock {fleet}" in refused(capsys, "tiny", "--fleet", str(fleet))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["glm-4.7-flahs"], "did you mean glm-4.7-flash?"),
        (["glm-4.7-flash", "--vram", "24"], "write 24G, 24564M or 2x24G"),
        (["glm-4.7-flash", "--vram", "24G,16G"], "unlike ones apart"),
        (["unsloth/GLM-4.7-Flash-GGUF"], "as unsloth/GLM-4.7-Flash-GGUF:Q4_K_M"),
        (["gone.gguf"], "No such file"),
        (["glm-4.7-flash", "--fleet", "gone.yaml"], "there is no fleet file gone.yaml"),
        (["http://127.0.0.1:9/x.gguf"], "can't connect"),
    ],
)
def test_what_cannot_be_answered_says_what_would_help(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refused(capsys, *words)


def test_what_is_no_model_is_refused(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert "GGUF file of version 0" in refused(capsys, "acme/Tiny-GGUF:F16", "--vram", "4G")
    (tmp_path / "page.gguf").write_text("<html>")
    assert "no GGUF file" in refused(capsys, "page.gguf")


def test_a_reader_without_ranges_is_hung_up_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        """Python's own file server: it knows no ranges."""

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    glm_4_7_flash().write(tmp_path / "GLM-Q4_K_M.gguf")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/GLM-Q4_K_M.gguf"
        found = document(capsys, url, "--vram", "24G")
        server.shutdown()
    assert found["rows"][0]["context"] > 65536


# All models, and experts in host memory ---------------------------------------------------------


def test_all_models_are_told_on_each_card_and_each_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET.format(url="http://127.0.0.1:9"))
    found = document(capsys, "--all", "--vram", "24G", "--vram", "16G", "--fleet", str(fleet))
    names = [model["model"] for model in found["models"]]
    assert names[0] == "flash"
    assert {"glm-4.7-flash", "gpt-oss-20b", "qwen3-coder-next"} <= set(names)
    assert set(names) | set(found["unknown"]) == {*catalogue.names(), "flash", "tiny"}
    for model in found["models"]:
        boxes = {tuple(size >> 30 for size in row["gpus"]) for row in model["rows"]}
        assert boxes == {(16,), (24,), (16, 24)}, model["model"]
        assert {row["kv"] for row in model["rows"]} == {"f16", "q8_0", "q4_0"}
        known = catalogue.entry("glm-4.7-flash").quantizations
        if model["model"] == "glm-4.7-flash":
            assert {row["quant"] for row in model["rows"]} == {item.name for item in known}


def test_all_models_fit_the_screen_and_name_what_is_not_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = fit(capsys, "--all", "--vram", "2x24G")
    for name in ("glm-4.7-flash", "gemma-3-27b", "granite-4.0-h-small"):
        assert f"{name} (" in text
    assert "2x24G: " in text


def test_a_pair_of_alike_cards_is_one_card_or_both() -> None:
    assert choices_of((24, 24)) == [(24,), (24, 24)]
    assert choices_of((24, 16, 16)) == [(16,), (24,), (16, 16), (16, 24), (16, 16, 24)]


def test_as_few_experts_outside_as_leave_room_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document(capsys, "qwen3-coder-next", "--vram", "24G", "--context", "32768", status=1)
    rows = [row for row in found["experts_outside"] if row["quant"] == "Q4_K_M"]
    assert [row["kv"] for row in rows] == ["f16", "q8_0", "q4_0"]
    for row in rows:
        assert row["fits"]
        assert row["context"] == 32768
        words = ["qwen3-coder-next", "--vram", "24G", "--context", "32768", "--kv", row["kv"]]
        one_fewer = str(row["cpu_moe"] - 1)
        document(capsys, *words, "--cpu-moe", one_fewer, status=1)
        document(capsys, *words, "--cpu-moe", str(row["cpu_moe"]))
    dense = document(capsys, "gemma-3-27b", "--vram", "16G", status=1)
    assert dense["experts_outside"] == []


@pytest.mark.parametrize("words", [[], ["--all", "glm-4.7-flash"]])
def test_a_model_or_all_of_them(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "name a model" in refused(capsys, *words)


def test_tokens_are_taken_as_people_say_them_and_too_many_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document(capsys, "glm-4.7-flash", "--vram", "24G", "--context", "64k")
    assert found["context"] == 65_536
    text = fit(capsys, "glm-4.7-flash", "--vram", "80G", "--context", "256K", "--kv", "q8_0")
    assert "It was trained for 202,752 tokens" in " ".join(text.split())
    for words in ("k", "0k", "64kb", "99999999k"):
        with pytest.raises(SystemExit):
            main(["fit", "glm-4.7-flash", "--context", words])

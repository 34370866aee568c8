"""Which model a file on a box could stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from onboard_support import TARGET, WORKING, box

from facts.found_models import FoundModel
from inventories.lock import Lock, ModelPin
from inventories.settings import Artifact
from llamaherd.onboard.adoption import Wanted, adoptable, wanted_files
from llamaherd.onboard.diagnosis import Expectations, diagnose
from llamaherd.onboard.report import Adoptable, Contact, Report
from llamaherd.onboard.table import render

SHA = "ab" * 32
SIZE = 17_520_169_312
PINNED = Wanted("coder", SIZE, SHA, "glm-ud-q4_k_xl.gguf")
LISTED = Wanted("glm-4.7-flash", SIZE, "", "ud-q4_k_xl")


def found(
    source: str = "hub", name: str = "x.gguf", size: int = SIZE, sha256: str = ""
) -> FoundModel:
    return FoundModel(source, name, f"/cache/{name}", size, sha256)


@pytest.mark.parametrize(
    ("file", "wanted", "certain"),
    [
        (found(sha256=SHA), PINNED, True),
        (found(sha256="cd" * 32), PINNED, None),
        (found("file", "GLM-UD-Q4_K_XL.gguf"), PINNED, False),
        (found("file", "GLM-UD-Q4_K_XL.gguf", SIZE - 1), PINNED, None),
        (found("file", "another.gguf"), PINNED, None),
        (found(name="unsloth/GLM/GLM-UD-Q4_K_XL.gguf", sha256=SHA), LISTED, False),
        (found("ollama", "glm:latest", sha256=SHA), LISTED, False),
        (found("ollama", "glm:latest", sha256=SHA), PINNED, True),
        (found("llamaherd", sha256=SHA), PINNED, None),
    ],
)
def test_a_file_is_a_model_may_be_one_or_is_none(
    file: FoundModel, wanted: Wanted, certain: bool | None
) -> None:
    expected = () if certain is None else (Adoptable(wanted.model, file.path, certain),)
    assert adoptable([file], [wanted]) == expected


def test_the_locks_own_bytes_go_before_a_guess() -> None:
    (match,) = adoptable([found("ollama", "glm:latest", sha256=SHA)], [LISTED, PINNED])
    assert (match.model, match.certain) == ("coder", True)


def test_what_is_wanted_comes_from_lock_and_catalogue() -> None:
    pin = ModelPin({}, (Artifact("sub/GLM.gguf", 5, SHA, url="https://h.org/x"),))
    wanted = wanted_files(None, Lock(models={"glm-4.7-flash": pin}))
    assert wanted[0] == Wanted("glm-4.7-flash", 5, SHA, "glm.gguf")
    assert "gpt-oss-20b" in {want.model for want in wanted}
    assert sum(want.model == "glm-4.7-flash" for want in wanted) == 1
    assert LISTED in wanted_files(None, None)


def test_the_report_says_which_model_a_file_is() -> None:
    models = (
        *(found("file", f"a{number:02}.gguf", 5) for number in range(10)),
        found(name="unsloth/GLM/UD-Q4_K_XL.gguf", sha256=SHA),
        found("ollama", "qwen:7b"),
    )
    probe = replace(box(**WORKING), models=models)
    files = (PINNED, Wanted("qwen", SIZE, "", "nothing"))
    findings = diagnose(TARGET, Contact(login="key"), probe, Expectations(files=files))
    text = render(
        Report(TARGET, Contact(), probe, findings=findings, adoptable=adoptable(models, files))
    )
    assert "UD-Q4_K_XL.gguf, 16.3 GiB: is coder" in text.replace("\n" + " " * 17, " ")
    assert "perhaps coder" in text
    assert "coder is among them" in next(f for f in findings if f.id == "models.found").message

"""The report of a prune, for people and for programs; and the command on simulated hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prune_support import MODELS, SETTINGS, Sandbox

from deploys.prune.unused import Item, Kept
from llamaherd.cli import main
from llamaherd.prune.command import prune_host
from llamaherd.prune.report import HostPrune, Prune, prune_document
from llamaherd.prune.table import render_prune
from schemas.validate import load_schema

GIB = 1024**3
BUILD = "/opt/llama.cpp/b8000-1111111-aaaaaaaaaaaa"
MODEL = f"{MODELS}/unsloth/GLM-4.7-Flash-GGUF/{'1' * 40}/GLM-4.7-Flash-UD-Q4_K_XL.gguf"
WHY = "no release, setting, unit or process uses it"
UNUSED = (Item("build", BUILD, GIB, WHY), Item("model", MODEL, 16 * GIB, WHY))
KEPT = (
    Kept("build", "/opt/llama.cpp/b1", GIB, "declared"),
    Kept("build", "/opt/llama.cpp/theirs", 5, "not ours: no manifest.json", ours=False),
)
HOSTS = {
    "in order": HostPrune("gpu-01"),
    "unused": HostPrune("gpu-02", UNUSED, KEPT),
    "pruned": HostPrune("gpu-03", UNUSED, KEPT, removed=True),
    "partly": HostPrune("gpu-04", UNUSED, removed=True, left={MODEL: "it has come into use"}),
    "refused": HostPrune("gpu-05", UNUSED, refusal="nothing was removed: a job runs there: x"),
    "unreachable": HostPrune("gpu-06", error="cannot connect: no route", reached=False),
    "error": HostPrune("gpu-07", error="no root rights as ops: allow that user sudo"),
}


@pytest.mark.parametrize("state", HOSTS)
def test_each_state_has_its_name_and_a_document_that_the_schema_takes(state: str) -> None:
    host = HOSTS[state]
    document = prune_document(Prune("fleet.yaml", (host,)))
    jsonschema.validate(document, load_schema("prune.report.schema.json"))
    assert document["hosts"][0]["state"] == host.state == state
    assert document["ok"] == (state in ("in order", "unused", "pruned"))
    assert bool(document["failures"]) != document["ok"]


def test_what_was_left_frees_nothing() -> None:
    document = prune_document(Prune("fleet.yaml", (HOSTS["partly"],)))
    (host,) = document["hosts"]
    assert host["bytes"] == GIB
    assert [(item["removed"], item["left"]) for item in host["unused"]] == [
        (True, ""),
        (False, "it has come into use"),
    ]
    assert document["failures"] == [{"host": "gpu-04", "message": f"{MODEL}: it has come into use"}]


def test_a_person_sees_what_how_much_and_why_within_80_columns() -> None:
    text = render_prune(Prune("fleet.yaml", tuple(HOSTS.values())))
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert text.startswith("gpu-01: nothing is unused")
    assert f"gpu-02: unused (17.0 GiB) 1.0 GiB {BUILD} {WHY}" in flat
    assert "left alone: /opt/llama.cpp/theirs: not ours" in flat
    assert "2 builds stay (1.0 GiB)" in flat
    assert "left: it has come into use" in flat
    assert "nothing was removed: a job runs there: x" in flat
    assert text.split("\n\n")[-1].startswith("7 hosts: 1 with nothing unused, 1 with something")
    only = render_prune(Prune("fleet.yaml", (HOSTS["unused"],)))
    assert only.endswith("1 host: 1 with something unused; --yes frees 17.0 GiB")


def on(host: Sandbox, remove: bool, removal: list[str] | None = None, **more: Any) -> HostPrune:
    """The command's work on a host that answers with what lies in the folders."""
    from llamaherd.runner import run_on_hosts

    answers: dict[str, Any] = {"rm -rf --one-file-system": removal or ["done"]}
    answers["@@llamaherd:entries"] = host.answer()
    data = {"fake_delay": 0, "fake_delay_jitter": 0, "fake_responses": answers | more}
    (result,) = run_on_hosts(
        [("@fake/gpu-01", data)],
        lambda each: prune_host(each, SETTINGS, remove=remove),
        seconds=lambda _: 60,
    )
    assert result.value is not None, result.error
    return result.value


@pytest.fixture
def host(tmp_path: Path) -> Sandbox:
    host = Sandbox(tmp_path)
    host.build(BUILD.rpartition("/")[2])
    return host


def test_nothing_is_removed_unless_that_is_asked_for(host: Sandbox) -> None:
    seen = on(host, remove=False)
    assert (seen.state, [item.path for item in seen.unused]) == ("unused", [BUILD])


def test_what_the_host_says_of_the_removal_is_told(host: Sandbox) -> None:
    assert on(host, True, [f"removed\t{BUILD}\t", "done"]).state == "pruned"
    seen = on(host, True, [f"left\t{BUILD}\tit has come into use", "done"])
    assert (seen.state, seen.left) == ("partly", {BUILD: "it has come into use"})
    assert on(host, True, ["done"]).left == {BUILD: "no word of it"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["refused a job runs there: llamaherd-x.service"], "a job runs there: llamaherd-x"),
        ([f"removed\t{BUILD}\t"], "the removal was cut off; run again, it goes on"),
        ([], "the removal was cut off"),
    ],
)
def test_a_host_that_refuses_says_why(host: Sandbox, said: list[str], message: str) -> None:
    seen = on(host, True, said or ["nothing"])
    assert seen.state == "refused"
    assert message in seen.refusal


def test_a_host_that_cant_be_judged_says_why(host: Sandbox) -> None:
    host.release("coder", "current")
    seen = on(host, remove=True)
    assert seen.state == "error"
    assert "the current release of server coder uses can't be read" in seen.error


def test_wrong_usage_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(tmp_path / "none.yaml")]) == 1
    assert "there is no fleet file" in capsys.readouterr().err
    assert main(["prune", str(tmp_path / "none.yaml"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False

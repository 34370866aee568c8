"""Which entry a box gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from write_support import GROUPS, HOSTS, fits, gpu, make_fleet, report_of

from inventories.fleet import load_fleet
from llamaherd.onboard.propose import Proposal, propose_entry
from llamaherd.onboard.report import Report
from llamaherd.onboard.write import plan_entry
from schemas.document import read_document

GPU_GROUPS = """\
groups:
  office:
    llama_cpp: {ccache: true}
  ada:
    cuda: {provider: nvidia-repo, version: "13.0"}
    llama_cpp: {architectures: ["89"]}
    servers:
      coder: {model: tiny, port: 8888, context: 16384, parallel: 2}
  blackwell:
    cuda: {provider: nvidia-repo, version: "13.0"}
    llama_cpp: {architectures: ["120a"]}
    servers:
      coder: {model: tiny, port: 8888, context: 65536}
  pair:
    cuda: {provider: nvidia-repo, version: "13.0"}
    servers:
      coder: {model: tiny, port: 8888, gpus: [0, 1]}
  paper:
    servers:
      coder: {model: tiny, port: 8888, context: 8192}
"""


def propose(folder: Path, report: Report, body: str = GROUPS + HOSTS) -> Proposal:
    path = make_fleet(folder, body)
    return propose_entry(report, load_fleet(path), read_document(path))


def test_a_box_joins_the_group_that_suits(tmp_path: Path) -> None:
    proposal = propose(tmp_path, report_of())
    assert proposal.name == "new-01"
    assert proposal.entry == {"ssh": {"hostname": "10.0.0.17"}, "groups": ["chat"]}
    assert not proposal.new_group


@pytest.mark.parametrize(
    ("gpus", "context", "groups"),
    [
        ((gpu(0),), 40960, ("ada",)),
        ((gpu(0, "12.0"),), 200000, ("blackwell",)),
        ((gpu(0, "8.6"), gpu(1, "8.6")), 200000, ("pair",)),
        ((), 0, ("paper",)),
    ],
    ids=["an Ada card", "a Blackwell card", "two cards of another kind", "no card"],
)
def test_the_group_follows_from_the_cards(
    tmp_path: Path, gpus: tuple[Any, ...], context: int, groups: tuple[str, ...]
) -> None:
    serves = (fits("tiny", context),) if context else ()
    body = GPU_GROUPS + "hosts:\n  a: {ssh: {hostname: 10.0.0.1}, groups: [paper]}\n"
    assert propose(tmp_path, report_of("10.0.0.17", *gpus, serves=serves), body).groups == groups


def test_groups_that_hosts_have_together_are_taken_together(tmp_path: Path) -> None:
    body = GPU_GROUPS + "hosts:\n  a: {ssh: {hostname: 10.0.0.1}, groups: [office, ada]}\n"
    report = report_of("10.0.0.17", gpu(0), serves=(fits("tiny", 40960),))
    assert propose(tmp_path, report, body).groups == ("office", "ada")


def test_a_group_whose_context_does_not_fit_is_passed_over_and_named(tmp_path: Path) -> None:
    body = GPU_GROUPS + "hosts:\n  a: {ssh: {hostname: 10.0.0.1}, groups: [ada]}\n"
    proposal = propose(
        tmp_path, report_of("10.0.0.17", gpu(0), serves=(fits("tiny", 20000),)), body
    )
    assert proposal.new_group == "tiny"
    assert proposal.group_entry["servers"]["coder"] == {
        "model": "tiny",
        "port": 8888,
        "context": 19456,
        "parallel": 1,
    }
    assert proposal.group_entry["cuda"] == {"provider": "nvidia-repo", "version": "13.0"}
    assert any("group ada: its server coder wants 32,768" in note for note in proposal.notes)


def test_what_nobody_has_sized_is_said_to_be_unknown(tmp_path: Path) -> None:
    notes = propose(tmp_path, report_of()).notes
    assert "whether tiny with 16,384 tokens of context fits is not known" in notes


def test_what_fits_with_a_smaller_cache_is_not_said_to_fit_with_a_full_one(tmp_path: Path) -> None:
    report = report_of(serves=(fits("tiny", 16384, kv="q8_0"),))
    assert any("is not known" in note for note in propose(tmp_path, report).notes)


@pytest.mark.parametrize(
    ("quant", "model"),
    [
        ("UD-Q4_K_XL", {"catalogue": "glm-4.7-flash"}),
        ("Q4_K_M", {"catalogue": "glm-4.7-flash", "hub": {"quant": "Q4_K_M"}}),
    ],
)
def test_a_model_of_the_catalogue_goes_into_the_fleet_with_its_group(
    tmp_path: Path, quant: str, model: dict[str, Any]
) -> None:
    path = make_fleet(tmp_path)
    serves = (fits("glm-4.7-flash", 150000, quant=quant),)
    plan = plan_entry(report_of("10.0.0.17", gpu(0), serves=serves), path)
    assert (plan.proposal.new_model, plan.proposal.model_entry) == ("glm-4.7-flash", model)
    assert plan.proposal.new_group == "glm_4_7_flash"
    assert plan.fleet.models["glm-4.7-flash"]["hub"]["quant"] == quant
    server = plan.fleet.hosts["new-01"].values["servers"]["coder"]
    assert (server["model"], server["context"]) == ("glm-4.7-flash", 65536)


def test_with_nothing_to_serve_the_box_gets_an_entry_without_servers(tmp_path: Path) -> None:
    proposal = propose(tmp_path, report_of("10.0.0.17", gpu(0)))
    assert proposal.entry == {"ssh": {"hostname": "10.0.0.17"}}
    assert "none is made" in proposal.notes[-1]


def test_a_smaller_cache_type_is_part_of_the_new_server(tmp_path: Path) -> None:
    report = report_of("10.0.0.17", gpu(0), serves=(fits("tiny", 300000, kv="q8_0"),))
    server = propose(tmp_path, report).group_entry["servers"]["coder"]
    assert (server["cache_type_k"], server["cache_type_v"]) == ("q8_0", "q8_0")
    assert (server["context"], server["parallel"]) == (65536, 2)


@pytest.mark.parametrize(
    ("report", "name"),
    [
        (report_of(hostname="Rack 7/b.example.com"), "rack-7-b"),
        (report_of(hostname="localhost"), "host-10-0-0-17"),
        (report_of("fe80::1", hostname=""), "host-fe80--1"),
        (report_of(hostname="old-01"), "old-01-2"),
        (report_of(hostname="chat"), "chat-2"),
        (report_of(alias="bench"), "bench"),
    ],
)
def test_the_name_is_valid_and_nobody_elses(tmp_path: Path, report: Report, name: str) -> None:
    assert propose(tmp_path, report).name == name


@pytest.mark.parametrize(
    ("report", "ssh"),
    [
        (report_of(user="root"), {"hostname": "10.0.0.17", "user": "root"}),
        (report_of(port=2222), {"hostname": "10.0.0.17", "port": 2222}),
        (report_of(alias="bench", port=2222), {"hostname": "bench"}),
        (
            report_of(key=str(Path.home() / ".ssh/new")),
            {"hostname": "10.0.0.17", "key": "~/.ssh/new"},
        ),
        (
            report_of(known_hosts="/etc/fleet/known_hosts"),
            {"hostname": "10.0.0.17", "known_hosts": "/etc/fleet/known_hosts"},
        ),
    ],
)
def test_only_what_defaults_do_not_say_is_written(
    tmp_path: Path, report: Report, ssh: dict[str, Any]
) -> None:
    assert propose(tmp_path, report).entry["ssh"] == ssh


def test_files_beside_the_fleet_are_named_from_it(tmp_path: Path) -> None:
    report = report_of(config_file=str(tmp_path / "ssh_config"), alias="bench")
    assert propose(tmp_path, report).entry["ssh"]["config_file"] == "ssh_config"


@pytest.mark.parametrize(
    "report",
    [report_of("10.0.0.11"), report_of("192.0.2.1", alias="10.0.0.11")],
    ids=["address", "alias"],
)
def test_a_box_that_is_in_the_fleet_already_is_recognised(tmp_path: Path, report: Report) -> None:
    proposal = propose(tmp_path, report)
    assert proposal.existing == "old-01"
    assert "already" in proposal.notes[0]


def test_another_port_of_an_address_is_another_box(tmp_path: Path) -> None:
    assert not propose(tmp_path, report_of("10.0.0.11", port=2222)).existing


def test_a_login_by_password_and_a_sudo_that_asks_are_told(tmp_path: Path) -> None:
    notes = propose(tmp_path, report_of(login="password", sudo="password")).notes
    assert any("converge needs a key" in note for note in notes)
    assert any("ssh.sudo_password" in note for note in notes)


def test_the_cards_are_declared_unless_the_group_does(tmp_path: Path) -> None:
    """`llamaherd validate` knows then what fits."""
    cards = [{"name": gpu(0).name, "memory": f"{gpu(0).memory_total}M", "count": 2}]
    body = GPU_GROUPS + "hosts:\n  a: {ssh: {hostname: 10.0.0.1}, groups: [pair]}\n"
    report = report_of("10.0.0.17", gpu(0), gpu(1), serves=(fits("tiny", 200000),))
    plan = plan_entry(report, make_fleet(tmp_path, body))
    assert plan.proposal.entry["gpus"] == cards
    assert plan.fleet.hosts[plan.proposal.name].values["gpus"] == cards
    said = body.replace("  pair:\n", f"  pair:\n    gpus: {cards}\n")
    assert "gpus" not in propose(tmp_path, report, said).entry

"""The entry is shown, asked for, validated, locked and written; or nothing is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from write_support import GROUPS, HOSTS, fits, gpu, make_fleet, report_of

from inventories.fleet import load_fleet
from inventories.lock import check_lock, lock_path, read_lock
from llamaherd.arguments import CommandError
from llamaherd.onboard import write
from llamaherd.onboard.converge import converge_command, converge_host
from llamaherd.onboard.report import Contact, Report, Target
from llamaherd.onboard.write import plan_entry, write_entry
from schemas.problems import ProblemsError


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_entry_goes_in_and_the_lock_is_current(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    before = path.read_text()
    said: list[str] = []
    written = write_entry(report_of(), path, yes=True, say=said.append)
    line = "  new-01: {ssh: {hostname: 10.0.0.17}, groups: [chat]}\n"
    assert path.read_text() == before + line
    assert check_lock(load_fleet(path), read_lock(path)) == []
    assert written.written
    assert written.in_fleet
    assert written.document()["pins"] == ["models tiny", "llama_cpp source.tar.gz"]
    assert f"+{line.rstrip()}" in "\n".join(said)
    assert {p.name for p in tmp_path.iterdir()} == {
        "fleet.yaml",
        "fleet.lock.yaml",
        "tiny.gguf",
        "source.tar.gz",
    }


def test_the_first_box_of_all_gets_a_fleet_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a source that needs no network to be locked."""
    text = make_fleet(tmp_path, "hosts:\n", "other.yaml").read_text()
    template = text.replace("{", "{{").replace("}", "}}").replace("{{provider: none}}", "{cuda}")
    monkeypatch.setattr(write, "_NEW_FLEET", template)
    path = tmp_path / "fleet.yaml"
    said: list[str] = []
    assert write_entry(report_of(), path, yes=True, say=said.append).written
    assert "+version: 1" in "\n".join(said).splitlines()
    assert list(load_fleet(path).hosts) == ["new-01"]
    assert not write_entry(report_of(), path, yes=True, say=said.append).written


def test_a_new_fleet_file_that_cannot_be_locked_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = write._NEW_FLEET.replace("{{ref: b8146}}", "{{ref: b1, repository: /nowhere}}")
    monkeypatch.setattr(write, "_NEW_FLEET", broken)
    with pytest.raises(ProblemsError):
        write_entry(report_of(), tmp_path / "fleet.yaml", yes=True, say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_the_first_box_of_all_gets_a_group_for_what_it_can_serve(tmp_path: Path) -> None:
    serves = (fits("glm-4.7-flash", 150000, quant="UD-Q4_K_XL"),)
    plan = plan_entry(report_of("10.0.0.17", gpu(0), serves=serves), tmp_path / "fleet.yaml")
    assert plan.before == b""
    assert not (tmp_path / "fleet.yaml").exists()
    values = plan.fleet.hosts["new-01"].values
    assert values["servers"]["coder"]["model"] == "glm-4.7-flash"
    assert values["llama_cpp"]["ref"] == "b8146"
    assert values["opencode"]["users"] == ["ops"]
    assert b'  cuda: {provider: nvidia-repo, version: "13.0"}\n' in plan.after


def test_a_second_time_nothing_is_written(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    write_entry(report_of(), path, yes=True, say=lambda _: None)
    before = files(tmp_path)
    again = write_entry(report_of(), path, yes=True, say=lambda _: None)
    assert files(tmp_path) == before
    assert (again.written, again.in_fleet, again.name) == (False, True, "new-01")


@pytest.mark.parametrize("hosts", ["hosts:\n", "hosts: {}\n", "hosts: null  # soon\n", ""])
def test_the_first_host_of_a_fleet_goes_in(tmp_path: Path, hosts: str) -> None:
    path = make_fleet(tmp_path, GROUPS + hosts)
    write_entry(report_of(), path, yes=True, say=lambda _: None)
    fleet = load_fleet(path)
    assert list(fleet.hosts) == ["new-01"]
    assert fleet.hosts["new-01"].groups == ("chat",)


def test_a_new_group_goes_in_with_its_host(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    report = report_of("10.0.0.17", gpu(0), serves=(fits("tiny", 65536),))
    plan = plan_entry(report, path)
    removed = [x for x in plan.diff.splitlines() if x.startswith("-") and not x.startswith("---")]
    assert removed == []
    assert plan.fleet.hosts["new-01"].values["cuda"]["version"] == "13.0"
    assert plan.fleet.hosts["new-01"].values["opencode"]["users"] == ["ops"]
    assert plan.fleet.hosts["new-01"].groups == ("tiny",)


def test_the_difference_is_shown_before_the_question_and_no_means_no(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    before = files(tmp_path)
    said: list[str] = []

    def decline(question: str) -> str:
        assert any("+  new-01:" in line for line in said), "asked before the difference was shown"
        assert str(path) in question
        return "\n"

    assert not write_entry(report_of(), path, say=said.append, ask=decline).in_fleet
    assert files(tmp_path) == before


def test_yes_on_the_question_writes(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    assert write_entry(report_of(), path, say=lambda _: None, ask=lambda _: "y\n").written


def test_without_a_terminal_nothing_is_asked_and_nothing_written(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    before = files(tmp_path)
    with pytest.raises(CommandError, match="--yes"):
        write_entry(report_of(), path, say=lambda _: None)
    assert files(tmp_path) == before


def test_a_lock_that_cannot_be_made_leaves_the_fleet_file_as_it_was(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    (tmp_path / "tiny.gguf").unlink()
    before = files(tmp_path)
    said: list[str] = []
    with pytest.raises(ProblemsError, match=r"tiny\.gguf"):
        write_entry(report_of(), path, yes=True, say=said.append)
    assert files(tmp_path) == before
    assert "as it was" in said[-1]


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)

    def edit(_: str) -> str:
        path.write_text(path.read_text() + "# somebody else\n")
        return "y"

    with pytest.raises(CommandError, match="changed meanwhile"):
        write_entry(report_of(), path, say=lambda _: None, ask=edit)
    assert path.read_text().endswith("# somebody else\n")
    assert not lock_path(path).exists()


def test_a_broken_fleet_file_is_told_with_its_problems(tmp_path: Path) -> None:
    path = make_fleet(tmp_path, GROUPS + HOSTS + "surprise: 1\n")
    before = files(tmp_path)
    with pytest.raises(ProblemsError, match="surprise"):
        write_entry(report_of(), path, yes=True, say=lambda _: None)
    assert files(tmp_path) == before


def test_an_entry_that_would_not_be_valid_is_not_written(tmp_path: Path) -> None:
    """The report is taken at its word; the fleet's own rules judge what comes of it."""
    path = make_fleet(tmp_path)
    before = files(tmp_path)
    report = report_of(user="o p")
    with pytest.raises(ProblemsError, match="account name"):
        write_entry(report, path, yes=True, say=lambda _: None)
    assert files(tmp_path) == before


def test_mode_and_link_of_the_fleet_file_survive(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    real = make_fleet(folder)
    real.chmod(0o640)
    link = folder / "link.yaml"
    link.symlink_to("fleet.yaml")
    write_entry(report_of(), link, yes=True, say=lambda _: None)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "new-01" in load_fleet(link).hosts


def test_line_ends_survive(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    write_entry(report_of(), path, yes=True, say=lambda _: None)
    assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n")


def test_a_box_that_was_not_reached_gets_no_entry(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    target = Target("ops@10.0.0.17", "10.0.0.17", "ops")
    with pytest.raises(CommandError, match="no route"):
        write_entry(Report(target, Contact(error="no route to host")), path, yes=True)


def test_converge_is_the_command_that_a_person_would_type() -> None:
    words = ["-m", "pyinfra", "inventory.py", "deploy.py", "-y", "--limit", "new-01"]
    assert converge_command("new-01") == [sys.executable, *words]


def test_a_converge_that_fails_is_told_and_nothing_is_verified(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real pyinfra, on a host that doesn't answer."""
    path = make_fleet(tmp_path, GROUPS + HOSTS.replace("10.0.0.11", "127.0.0.1, port: 9"))
    write_entry(report_of("127.0.0.1", port=7), path, yes=True, say=lambda _: None)
    said: list[str] = []
    done = converge_host(path, "new-01", say=said.append)
    assert not done.ok
    assert done.report is None
    assert done.status != 0
    assert f"pyinfra exited {done.status}" in said[-2]
    assert said[-1].strip() == f"FLEET={path} pyinfra inventory.py deploy.py -y --limit new-01"
    out, err = capfd.readouterr()
    assert out == "", "standard output belongs to the report"
    assert "new-01" in err
    assert "old-01" not in err

"""The release's script as its job runs it, by dash, with a ``systemctl`` that keeps notes."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deploys.common.files import ManagedFile
from deploys.llama_server import release
from deploys.llama_server.instance import Instance
from deploys.llama_server.release import release_job, release_of, rollback_job
from inventories.settings import Artifact, ModelSettings, ServerSettings

MODEL = ModelSettings(
    name="glm",
    title="glm",
    directory="/var/lib/llamaherd/models/o/r/1",
    files=(Artifact("glm.gguf", 7, "a" * 64, url="https://h/x"),),
)
OLD = Instance(
    ServerSettings(name="coder", model="glm", port=8888, context=8192),
    MODEL,
    "/opt/llama.cpp/b1-old/bin/llama-server",
    frozenset(),
    gpu=False,
)
NEW = replace(OLD, binary="/opt/llama.cpp/b2-new/bin/llama-server")

# A unit that says BROKEN doesn't start; with one that says POWER the host goes down at its start.
SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$NOTES/calls"
unit=$(cat "$HOST/units/llama-server@coder.service" 2>/dev/null)
case $1 in
  show)
    case $3 in
      ActiveState) cat "$NOTES/active" ;;
      SubState) if [ -s "$NOTES/loads" ]; then sed -i 1d "$NOTES/loads"; echo start-post
        else echo active > "$NOTES/active"; echo running; fi ;;
      MainPID) echo 1 ;;
      Result) echo exit-code ;;
      ExecMainStartTimestampMonotonic) cat "$NOTES/started" ;;
    esac ;;
  stop) echo inactive > "$NOTES/active" ;;
  restart)
    case $unit in *POWER*) kill -9 "$PPID" ;; esac
    case $unit in *BROKEN*) echo failed > "$NOTES/active"; touch "$NOTES/full"; exit 1 ;; esac
    echo active > "$NOTES/active" ;;
  daemon-reload)
    ! grep -q BUS "$NOTES/fails" || case $unit in *b2-new*) exit 1 ;; esac ;;
esac
"""
# A disk that is full once the new release has run, or for one of its files.
CP = """#!/bin/sh
for last; do :; done
if grep -qxF "${last##*/}" "$NOTES/fails" ||
  { grep -q DISK "$NOTES/fails" && [ -e "$NOTES/full" ]; }; then
  echo "cp: error writing '$last': No space left on device" >&2
  exit 1
fi
exec /bin/cp "$@"
"""


@dataclass(frozen=True)
class Host:
    """A folder with a host's units, settings and releases, and a job's folder."""

    folder: Path

    def run(self, instance: Instance, broken: str = "", *, restart: bool = True) -> int:
        """A release's job; its exit status."""
        unit = f"[Service]\n# {broken}\nExecStart={instance.binary}\n"
        files = (
            ManagedFile("/etc/systemd/system/llama-server@coder.service", unit),
            ManagedFile("/etc/llama-server/coder/wait-ready", f"# of {instance.binary}\n"),
        )
        job = release_job(instance, files, restart=restart)
        work = self.folder / "job"
        for path in work.iterdir():
            path.unlink()
        for name, content in job.secrets.items():
            (work / f"secret.{name}").write_text("exit 0\n" if name == "check" else content)
        return self.script(job.script)

    def script(self, text: str) -> int:
        for place, name in (
            ("/etc/systemd/system", "units"),
            ("/etc/llama-server/coder", "settings"),
            ("/var/lib/llamaherd/releases/coder", "releases"),
        ):
            text = text.replace(place, str(self.folder / name))
        (self.folder / "job" / "script").write_text(text)
        return self.dash("script")

    def dash(self, *words: str) -> int:
        """Run a script by name, with its arguments."""
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "NOTES": str(self.folder / "notes"),
            "HOST": str(self.folder),
        }
        done = subprocess.run(
            ["dash", "-eu", *words], cwd=self.folder / "job", env=environment, check=False
        )
        return done.returncode

    def note(self, name: str, text: str = "") -> None:
        (self.folder / "notes" / name).write_text(text)

    def calls(self) -> list[str]:
        """What systemctl was asked to do since the last time, without questions."""
        notes = self.folder / "notes" / "calls"
        lines = notes.read_text().splitlines()
        notes.write_text("")
        return [line.split()[0] for line in lines if not line.startswith("show")]

    @property
    def message(self) -> str:
        return (self.folder / "job" / "message").read_text()

    @property
    def files(self) -> dict[str, str]:
        """Every file below units and settings, by its name."""
        found = [path for name in ("units", "settings") for path in (self.folder / name).iterdir()]
        return {path.name: path.read_text() for path in found}

    def current(self) -> str:
        return str((self.folder / "releases" / "current").readlink())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """One on which the old release serves and was kept."""
    monkeypatch.setattr(release, "SETTLE_SECONDS", 1)
    for name in ("bin", "notes", "units", "job"):
        (tmp_path / name).mkdir()
    stubs = {"systemctl": SYSTEMCTL, "cp": CP, "journalctl": "#!/bin/sh\n"}
    for name, text in stubs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    made = Host(tmp_path)
    for name, text in (("fails", ""), ("started", "0\n"), ("active", "inactive\n"), ("loads", "")):
        made.note(name, text)
    assert made.run(OLD) == 0
    assert made.current() == release_of(OLD)
    made.calls()
    return made


def test_a_release_that_answers_is_kept_and_leaves_nothing_beside(host: Host) -> None:
    assert host.run(NEW) == 0
    assert host.current() == release_of(NEW)
    assert set(host.files) == {"llama-server@coder.service", "wait-ready"}
    assert NEW.binary in host.files["wait-ready"]


def test_a_disk_that_the_new_release_filled_does_not_keep_the_old_one_away(host: Host) -> None:
    before = host.files
    host.note("fails", "DISK\n")
    assert host.run(NEW, "BROKEN") == 1
    assert host.files == before
    assert host.calls()[-2:] == ["restart", "disable"]
    assert f"release {release_of(OLD)} serves again after " in host.message
    assert host.current() == release_of(OLD)


@pytest.mark.parametrize("fails", ["wait-ready.new", "llama-server@coder.service.new", "BUS"])
def test_a_release_comes_whole_or_not_at_all(host: Host, fails: str) -> None:
    before = host.files
    host.note("fails", f"{fails}\n")
    assert host.run(NEW) == 1
    assert host.files == before
    assert not {"stop", "restart"} & set(host.calls())


def test_the_old_release_is_started_even_if_not_all_of_it_could_be_put_back(host: Host) -> None:
    for path in (host.folder / "settings").iterdir():
        path.unlink()  # somebody's, before: there is nothing to go back to but the copy
    host.note("fails", "DISK\n")
    assert host.run(NEW, "BROKEN") == 1
    assert host.calls()[-2:] == ["restart", "disable"]
    assert "serves again after" in host.message
    assert "not all of its files could be put back" in host.message


def test_where_a_container_has_an_uptime_of_its_own_the_wait_has_an_end(host: Host) -> None:
    host.note("started", f"{10**15}\n")  # by systemd's clock, later than the container's now
    assert host.run(NEW) == 0
    assert host.current() == release_of(NEW)


def test_a_server_that_still_loads_is_waited_for_and_not_started_anew(host: Host) -> None:
    host.note("active", "activating\n")
    host.note("loads", "1\n2\n3\n")
    assert host.run(OLD, restart=False) == 0
    assert not {"stop", "restart"} & set(host.calls())


def test_a_boot_in_the_middle_of_a_trial_brings_back_what_was_kept(host: Host) -> None:
    before = host.files
    assert host.run(NEW, "POWER") == -9
    assert NEW.binary in host.files["llama-server@coder.service"]
    guard = host.files["llamaherd-trial-coder.service"]
    assert "Before=llama-server@coder.service\n" in guard
    (line,) = [line for line in guard.splitlines() if line.startswith("ExecStart=")]
    host.note("fails", "DISK\n")
    host.calls()
    assert host.dash(*line.split()[2:]) == 0
    assert host.files == before
    # The boot itself starts it, by what is on the disk now.
    assert host.calls() == ["daemon-reload", "enable", "disable"]


def test_a_rollback_swaps_the_two_releases(host: Host) -> None:
    assert host.run(NEW) == 0
    for wanted in (OLD, NEW):
        assert host.script(rollback_job("coder").script) == 0
        assert host.current() == release_of(wanted)
        assert wanted.binary in host.files["wait-ready"]
    assert (host.folder / "releases" / "previous").readlink() == Path(release_of(OLD))


def test_there_is_no_way_back_from_a_release_that_was_never_kept(host: Host) -> None:
    assert host.run(NEW) == 0
    (host.folder / "releases" / "current").unlink()
    before = host.files
    assert host.script(rollback_job("coder").script) == 1
    assert "has no current release" in host.message
    assert host.files == before

"""The main job, end to end, on a throw-away host: what ``make demo`` runs.

Boots a lab host, locks ``inventories/demo.yaml``, converges it twice, verifies it, and lets
OpenCode on it answer a prompt. Each stage is headed and timed. The host is removed at the end, on
Ctrl-C and on failure; ``--keep`` leaves it after a success and says how to reach it.

Exit codes: 0 all of it worked, 1 a stage failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from downloads import MODEL, SOURCE, ensure
from lab import LabError, lab_host, serve_hub, stop_on_signals
from machines import REPOSITORY, Lab

FLEET = "inventories/demo.yaml"
LOCK = "inventories/demo.lock.yaml"
PROMPT = "In one short sentence: what is a llama?"
PROMPT_SECONDS = 1200
GRACE_SECONDS = 20
BIN = Path(sys.executable).parent


class Stages:
    """Heads each stage, times it, and prints the table of times at the end."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._times: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A stage; its time is kept even when it fails."""
        print(f"\n=== {len(self._times) + 1}/{self._total}  {title}", flush=True)
        began = time.monotonic()
        try:
            yield
        finally:
            self._times.append((title, time.monotonic() - began))

    def table(self) -> str:
        """One line a stage, and their sum."""
        rows = [*self._times, ("in all", sum(seconds for _, seconds in self._times))]
        width = max(len(title) for title, _ in rows)
        return "\n".join(f"  {title:{width}}  {clock(seconds):>8}" for title, seconds in rows)


def clock(seconds: float) -> str:
    """Seconds as a person reads them: ``4.2 s``, ``9:41``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def run(command: Sequence[str], *, env: Mapping[str, str]) -> None:
    """Run a command as a user would, its output straight through; LabError when it fails."""
    print("$ " + " ".join([Path(command[0]).name, *command[1:]]), flush=True)
    with child(command, env=env) as process:
        process.wait()
    if process.returncode != 0:
        raise LabError(f"{Path(command[0]).name} exited with {process.returncode}; see above")


@contextlib.contextmanager
def child(
    command: Sequence[str], *, env: Mapping[str, str], capture: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, ended and waited for when the block is left early.

    Ctrl-C reaches us alone; the child gets it from us, so that it can finish in order first.
    """
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    except BaseException:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
                break
        raise


def converge_again(env: Mapping[str, str]) -> None:
    """Converge once more, and fail when any operation on any host changed something."""
    command = [str(BIN / "pyinfra"), "inventory.py", "deploy.py", "-y", "--json"]
    print("$ pyinfra inventory.py deploy.py -y --json", flush=True)
    with child(command, env=env, capture=True) as process:
        output, _ = process.communicate()
    if process.returncode != 0:
        raise LabError(f"pyinfra exited with {process.returncode}; see above")
    results = json.loads(output)["results"]
    totals = results["totals"]
    changed = [operation["name"] for operation in results["operations"] if operation["success"]]
    print(f"{totals['hosts']} operations looked, {len(changed)} changed anything")
    if changed:
        raise LabError("the second converge wasn't idle; it changed: " + "; ".join(changed))


def ask(lab: Lab) -> None:
    """Let OpenCode on the host answer the prompt as ``dev``; LabError when no answer comes."""
    question = shlex.quote(PROMPT)
    print(f"$ opencode run {question}", flush=True)
    command = lab.ssh("-o", "BatchMode=yes", user="dev")
    command.append(f"timeout {PROMPT_SECONDS} opencode run --format json {question}")
    answer = ""
    with child(command, env={}, capture=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text = _text_of(line)
            answer += text
            print(text, end="", flush=True)
        process.wait()
    print(flush=True)
    if process.returncode != 0:
        raise LabError(f"opencode exited with {process.returncode}; see above")
    if not answer.strip():
        raise LabError("opencode exited well, but the model's answer was empty")


def _text_of(line: str) -> str:
    """The model's words in one line of OpenCode's events; errors are words too."""
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if event.get("type") == "text":
        return str(event.get("part", {}).get("text", ""))
    return line if event.get("type") == "error" else ""


def demo(stages: Stages, *, keep: bool) -> None:
    """All stages in order; the first that fails ends it."""
    llamaherd = str(BIN / "llamaherd")
    pyinfra = str(BIN / "pyinfra")
    with stages.stage("Fetch the model and llama.cpp's source"):
        for download in (SOURCE, MODEL):
            print(ensure(download).relative_to(REPOSITORY))
    with contextlib.ExitStack() as cleanup:
        with stages.stage("Boot a throw-away Debian 12 host, and a hub that serves the model"):
            lab = cleanup.enter_context(lab_host("demo", keep=keep))
            endpoint = serve_hub(lab)
            print(f"host {lab.address}, hub {endpoint}")
        env = {"FLEET": FLEET, "HF_ENDPOINT": endpoint}
        with stages.stage("Validate the fleet file"):
            run([llamaherd, "validate"], env=env)
        with stages.stage("Lock it: names become revisions, sizes and checksums"):
            # An earlier demo's hub had another address.
            (REPOSITORY / LOCK).unlink(missing_ok=True)
            run([llamaherd, "lock"], env=env)
        with stages.stage("Converge: compile, download, serve, configure"):
            run([pyinfra, "inventory.py", "deploy.py", "-y"], env=env)
        with stages.stage("Converge again: nothing may be left to do"):
            converge_again(env)
        with stages.stage("Verify: ask the live server"):
            run([llamaherd, "verify"], env=env)
        with stages.stage("Ask OpenCode on that host"):
            ask(lab)
        if keep:
            print(f"\nThe host is up: {' '.join(lab.ssh())}")
            print(f"  as OpenCode's user:    {' '.join(lab.ssh('-t', user='dev'))} opencode")
            print(f"  llamaherd against it:  FLEET={FLEET} HF_ENDPOINT={endpoint} llamaherd verify")
            print("  remove it:             make demo-clean")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="the main job on a throw-away host")
    parser.add_argument("--keep", action="store_true", help="leave the host up after a success")
    options = parser.parse_args()
    stop_on_signals()
    stages = Stages(total=8)
    try:
        demo(stages, keep=options.keep)
    except LabError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; the host is gone", file=sys.stderr)
        return 130
    finally:
        print(f"\n{stages.table()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

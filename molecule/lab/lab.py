"""Throw-away lab hosts: create, destroy, restart, list, and run commands on them.

    lab.py create NAME [--suite bookworm|trixie] [--bind SRC:DST ...]
    lab.py restart NAME
    lab.py destroy NAME
    lab.py list
    lab.py hub NAME
    lab.py exec NAME [--user USER] -- COMMAND ...

Exit codes: 0 done, 1 anything else; ``exec`` exits as its command did.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import machines
from downloads import HUB_ROOT
from machines import Lab
from roots import SUITES, LabError

__all__ = ["Lab", "LabError", "lab_host", "serve_hub", "stop_on_signals"]

HUB_SECONDS = 10


@contextlib.contextmanager
def lab_host(
    name: str, *, suite: str = "bookworm", binds: Sequence[str] = (), keep: bool = False
) -> Iterator[Lab]:
    """A lab host for the length of a block; destroyed at its end, however that comes about.

    + keep: leave it when the block ends well (a failure destroys it all the same)
    """
    lab = machines.create(name, suite=suite, binds=binds)
    try:
        yield lab
    except BaseException:
        machines.destroy(machines.load(name))
        raise
    if not keep:
        machines.destroy(machines.load(name))


def serve_hub(lab: Lab, root: Path = HUB_ROOT) -> str:
    """Serve a folder of repositories to the host, and to this machine, until the lab is destroyed.

    Its requests are in ``hub.log`` of the lab's directory, and a word in ``hub.fault`` beside it
    breaks it (see ``hub.Fault``).

    + root: the folder; ``.lab/hub`` by default

    Returns the endpoint, what ``$HF_ENDPOINT`` should say.
    """
    with socket.socket() as probe:
        probe.bind((lab.gateway, 0))
        port = probe.getsockname()[1]
    hub = Path(__file__).with_name("hub.py")
    command = [sys.executable, str(hub), "--root", str(root), "--verbose"]
    command += ["--bind", lab.gateway, "--port", str(port)]
    command += ["--fault-file", str(lab.directory / "hub.fault")]
    process = machines.start_process(lab, "hub", command)
    deadline = time.monotonic() + HUB_SECONDS
    while process.is_running and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((lab.gateway, port), 1):
            return f"http://{lab.gateway}:{port}"
        time.sleep(0.05)
    log = (lab.directory / "hub.log").read_text(errors="replace").strip()
    raise LabError(f"lab {lab.name}: the hub didn't start: {log[-1000:] or 'it said nothing'}")


def stop_on_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into an ordinary exit: clean-up runs.

    SIGINT too, explicitly: a shell starts what it puts in the background with SIGINT ignored, and
    Python then leaves it ignored.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's own text."""
    options = _parser().parse_args(arguments)
    stop_on_signals()
    try:
        return int(options.action(options))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab.py", description="throw-away lab hosts")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="boot a lab host")
    create.add_argument("name")
    create.add_argument("--suite", choices=SUITES, default="bookworm")
    create.add_argument("--bind", action="append", default=[], metavar="SRC:DST")
    create.set_defaults(action=_create)
    restart = commands.add_parser("restart", help="power a lab host off and boot it again")
    restart.add_argument("name")
    restart.set_defaults(action=_restart)
    destroy = commands.add_parser("destroy", help="remove a lab host and all it left")
    destroy.add_argument("name")
    destroy.add_argument("--missing-ok", action="store_true", help="none there is no error")
    destroy.set_defaults(action=_destroy)
    listing = commands.add_parser("list", help="the lab hosts of this checkout")
    listing.set_defaults(action=_list)
    hub = commands.add_parser("hub", help="serve models to a lab host and print the endpoint")
    hub.add_argument("name")
    hub.set_defaults(action=_hub)
    execute = commands.add_parser("exec", help="run a command on a lab host")
    execute.add_argument("name")
    execute.add_argument("--user", default="root")
    execute.add_argument("command", nargs="+")
    execute.set_defaults(action=_exec)
    return parser


def _create(options: argparse.Namespace) -> int:
    began = time.monotonic()
    lab = machines.create(options.name, suite=options.suite, binds=options.bind)
    print(f"lab {lab.name}: up after {time.monotonic() - began:.1f} s: {' '.join(lab.ssh())}")
    return 0


def _restart(options: argparse.Namespace) -> int:
    machines.restart(machines.load(options.name))
    return 0


def _destroy(options: argparse.Namespace) -> int:
    try:
        lab = machines.load(options.name)
    except LabError:
        if options.missing_ok:
            return 0
        raise
    machines.destroy(lab)
    return 0


def _list(_options: argparse.Namespace) -> int:
    for lab in machines.labs():
        state = "up" if lab.process.is_running else "down"
        print(f"{lab.name:20}  {lab.suite:8}  {lab.address:15}  {state}")
    return 0


def _hub(options: argparse.Namespace) -> int:
    print(serve_hub(machines.load(options.name)))
    return 0


def _exec(options: argparse.Namespace) -> int:
    lab = machines.load(options.name)
    command = [*lab.ssh(user=options.user), shlex.join(options.command)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

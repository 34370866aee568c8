"""The command line: ``llamaherd COMMAND``.

Exit status: 0 all well; 2 drift, and only drift; 130 interrupted from the keyboard, as shells have
it; 1 everything else, wrong usage included. What goes wrong is one line on standard error, or one
a problem; a traceback is printed for nobody who did not set ``LLAMAHERD_DEBUG``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from llamaherd.arguments import CommandError, problem_document
from schemas.problems import ProblemsError
from schemas.validate import did_you_mean

COMMANDS = (
    *("validate", "show", "lock", "plan", "verify", "rollback", "prune"),
    *("drift", "onboard", "fit", "models"),
)
"""One module of this package each: ``add_parser(subparsers)`` sets ``func``, a ``run(args)``."""

INTERRUPTED = 130

_ELSEWHERE = {name: f"llamaherd.{name}.command" for name in ("drift", "onboard", "plan", "prune")}


class Parser(argparse.ArgumentParser):
    """Wrong usage exits with 1: 2 means drift, and only drift."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '([^']*)' \(choose from .*validate", message)
        if found:
            hint = did_you_mean(found[1], COMMANDS, known_as="commands")
            message = f"there is no command {found[1]}{hint}"
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser with these commands."""
    parser = Parser(
        prog="llamaherd",
        description="Provision fleets of GPU hosts that serve open-weight coding models.",
        epilog="Exit status: 0 all well, 2 drift and only drift, 1 everything else.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in commands:
        import_module(_ELSEWHERE.get(command, f"llamaherd.{command}")).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    # Only the command that runs is imported: pyinfra alone takes longer than `validate`.
    commands = words[:1] if words and words[0] in COMMANDS else COMMANDS
    as_json = "--json" in words
    try:
        args = build_parser(commands).parse_args(words)
        status: int = args.func(args)
        sys.stdout.flush()
        return status
    except (CommandError, ProblemsError) as error:
        return _fail(error, str(error), as_json=as_json)
    except KeyboardInterrupt:
        _fail(None, "interrupted", as_json=as_json)
        if argv is None:
            _leave(INTERRUPTED)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) is gone; keep Python from complaining about it when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("LLAMAHERD_DEBUG"):
            raise
        message = f"{type(error).__name__}: {error} (LLAMAHERD_DEBUG=1 shows where)"
        return _fail(error, message, as_json=as_json)


def _leave(status: int) -> NoReturn:
    """End at once: connections that still wait for an answer would hold up Python's own end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _fail(error: BaseException | None, message: str, *, as_json: bool) -> int:
    """Say why the command could not do its work; ``schemas/error.report.schema.json`` for JSON."""
    print(message, file=sys.stderr)
    if as_json:
        problems = error.problems if isinstance(error, ProblemsError) else ()
        listed = [problem_document(problem) for problem in problems]
        print(json.dumps({"ok": False, "error": message, "problems": listed}, indent=2))
    return 1

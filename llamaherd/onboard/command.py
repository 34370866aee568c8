"""``llamaherd onboard TARGET...``: what a box is, what stands in its way, and its entry.

Nothing is changed on a box unless ``--install-key`` or ``--create-user`` says so, nothing in the
fleet file without ``--write``, nothing in known_hosts without a confirmed fingerprint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llamaherd.arguments import Subparsers, add_json_argument


def add_parser(subparsers: Subparsers) -> None:
    """Add ``onboard`` to the command line."""
    parser = subparsers.add_parser(
        "onboard",
        help="look at a new box: what it is, what it can serve, what is in the way",
        description="Look at boxes that are not in the fleet yet. Changes nothing on them unless "
        "told. Exits 0 when every box is ready, else 1.",
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="what ssh takes: USER@HOST, HOST:PORT, alias"
    )
    parser.add_argument("--list", metavar="FILE", type=Path, help="file with one target a line")
    parser.add_argument("--fleet", metavar="FILE", type=Path, help="the fleet file")
    parser.add_argument("--ssh-config", metavar="FILE", type=Path, help="instead of ~/.ssh/config")
    parser.add_argument("--key", metavar="FILE", type=Path, help="private key to log in with")
    parser.add_argument(
        "--all-fits",
        action="store_true",
        help="print what fits of every model, as `llamaherd fit --all` does; --json has it always",
    )
    parser.add_argument(
        "--no-bandwidth", action="store_true", help="don't measure the way to the model hub"
    )
    contact = parser.add_argument_group("first contact (each step is said, with its undo)")
    contact.add_argument(
        "--fingerprint",
        metavar="SHA256:...",
        action="append",
        default=[],
        help="the box's host key, from its own console; it is recorded in known_hosts",
    )
    contact.add_argument(
        "--password",
        metavar="WHERE",
        help="password of the first login: prompt, env:NAME, file:PATH or command:WORDS",
    )
    contact.add_argument(
        "--install-key", action="store_true", help="leave this machine's public key on the box"
    )
    contact.add_argument(
        "--create-user", metavar="NAME", default="", help="make a user that converge can log in as"
    )
    contact.add_argument("--dry", action="store_true", help="say the steps, take none of them")
    entry = parser.add_argument_group("its entry in the fleet")
    entry.add_argument("--write", action="store_true", help="put it into the fleet file, and lock")
    entry.add_argument(
        "--converge", action="store_true", help="with --write: converge that host, and verify it"
    )
    entry.add_argument("--yes", action="store_true", help="write without asking")
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Carry out ``llamaherd onboard``; 0 when every box is ready, else 1."""
    # Here, because it imports pyinfra: `llamaherd --help` needs none of that.
    from llamaherd.onboard.procedure import onboard
    from llamaherd.onboard.report import document

    reports = onboard(args)
    if args.json:
        print(json.dumps(document(tuple(reports)), indent=2))
    return 0 if all(report.ok for report in reports) else 1

"""``llamaherd plan``: preflight of all hosts as one table, and what a converge would do on each.

Changes nothing on any host. Exits 0 when a converge could go through on every host, whether it
has something to do there or not; 1 when one is blocked, out of reach or can't be judged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys

from llamaherd.arguments import (
    Subparsers,
    add_fleet_argument,
    add_json_argument,
    fleet_path,
)
from llamaherd.drift.command import check_fleet
from llamaherd.drift.targets import TIMEOUT, Options
from llamaherd.hosts import add_limit_argument, add_timeout_argument, load_chosen
from llamaherd.plan.report import plan_document, plan_of
from llamaherd.plan.table import render_plan


def add_parser(subparsers: Subparsers) -> None:
    """Add ``plan`` to the command line."""
    parser = subparsers.add_parser(
        "plan",
        help="what a converge would do, fetch and compile; change nothing",
        description="Check every host beforehand, and show what a converge would do there: what it "
        "changes, how many bytes it fetches, about how long it compiles. Changes nothing. Exits 0 "
        "when a converge could go through on every host, else 1.",
    )
    add_fleet_argument(parser)
    add_json_argument(parser)
    add_limit_argument(parser, "plan")
    add_timeout_argument(parser, TIMEOUT)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Carry out ``llamaherd plan``."""
    chosen = load_chosen(fleet_path(args), args.limit)
    options = Options(timeout=args.timeout, plan=True)
    plan = plan_of(check_fleet(chosen.fleet, chosen.lock, chosen.names, options))
    if args.json:
        print(json.dumps(plan_document(plan), indent=2))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
        print(render_plan(plan, colour=colour, width=width))
    return 0 if plan.ok else 1

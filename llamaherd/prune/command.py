"""``llamaherd prune``: what no release, setting or process of a host needs any more, removed.

Shows it, and changes nothing, unless ``--yes`` is given. Then it holds the host's claim while it
removes, as a converge does, and refuses where a job of ours runs. Exits 0 when every host could be
judged and did what was asked, else 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inventories.resolve import UnlockedError, resolve_host
from inventories.secrets import SecretError
from inventories.settings import HostSettings
from llamaherd.arguments import Subparsers, add_fleet_argument, add_json_argument, fleet_path
from llamaherd.hosts import Chosen, add_limit_argument, add_timeout_argument, load_chosen

if TYPE_CHECKING:
    from pyinfra.api.host import Host

    from deploys.prune.unused import Judgement
    from llamaherd.prune.report import HostPrune, Prune

TIMEOUT = 600
"""Seconds that a host may take: removing hundreds of gigabytes takes its time on some disks."""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``prune`` to the command line."""
    parser = subparsers.add_parser(
        "prune",
        help="show, or remove, builds and models that nothing needs any more",
        description="Show builds, model files, OpenCode versions and leftovers of ours that no "
        "current or previous release, no setting and no process of a host needs. Removes nothing "
        "without --yes, and never what isn't ours.",
    )
    add_fleet_argument(parser)
    add_json_argument(parser)
    add_limit_argument(parser, "look at")
    add_timeout_argument(parser, TIMEOUT)
    parser.add_argument("--yes", action="store_true", help="remove what is shown")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Carry out ``llamaherd prune``."""
    path = fleet_path(args)
    report = prune(load_chosen(path, args.limit), path, args.timeout, remove=args.yes)
    if args.json:
        from llamaherd.prune.report import prune_document

        print(json.dumps(prune_document(report), indent=2))
    else:
        from llamaherd.prune.table import render_prune

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
        print(render_prune(report, width=width))
    return 0 if report.ok else 1


def prune(chosen: Chosen, path: Path, timeout: int, *, remove: bool) -> Prune:
    """Look at the chosen hosts, and remove what nothing needs where that is asked for.

    + path: the fleet file; secrets' files count from its folder
    + timeout: seconds a host may take
    """
    # Loading pyinfra takes long, and the runner must come first: it patches the standard library.
    from llamaherd.runner import run_on_hosts  # isort: skip
    from inventories.groups import host_data
    from llamaherd.prune.report import HostPrune, Prune

    settings: dict[str, HostSettings] = {}
    entries: list[tuple[str, Mapping[str, Any]]] = []
    found: dict[str, HostPrune] = {}
    for name in chosen.names:
        try:
            settings[name] = resolve_host(chosen.fleet, chosen.lock, name)
            entries.append((name, host_data(settings[name], path.absolute().parent)))
        except (SecretError, UnlockedError) as error:
            found[name] = HostPrune(name, error=str(error))
    results = run_on_hosts(
        entries,
        lambda host: prune_host(host, settings[host.name], remove=remove),
        seconds=lambda _: timeout,
    )
    for result in results:
        found[result.host] = result.value or HostPrune(
            result.host, error=result.error, reached=result.connected
        )
    return Prune(str(chosen.fleet.path), tuple(found[name] for name in chosen.names))


def prune_host(host: Host, settings: HostSettings, *, remove: bool) -> HostPrune:
    """Look at one connected host, and remove there what nothing needs where that is asked for."""
    from pyinfra.api.exceptions import ConnectError

    from deploys.prune.removal import RefusedError
    from deploys.prune.unused import UnknownNeedsError
    from llamaherd.prune.report import HostPrune

    name = settings.name
    try:
        judgement = _judge(host, settings)
        unused, kept = judgement.unused, judgement.kept
        if not remove or not unused:
            return HostPrune(name, unused, kept)
        try:
            judgement, left = _remove(host, settings)
        except RefusedError as error:
            return HostPrune(name, unused, kept, refusal=f"nothing was removed: {error}")
    except (UnknownNeedsError, ConnectError) as error:
        return HostPrune(name, error=str(error))
    return HostPrune(name, judgement.unused, judgement.kept, removed=True, left=left)


def _judge(host: Host, settings: HostSettings) -> Judgement:
    from deploys.prune.unused import judge
    from facts.holdings import HostHoldings
    from llamaherd.runner import ask

    return judge(settings, ask(host, HostHoldings))


def _remove(host: Host, settings: HostSettings) -> tuple[Judgement, dict[str, str]]:
    """Remove under the host's claim what is unused now; what was, and why some of it is left."""
    from deploys.common.claims import ClaimError, claim
    from deploys.common.jobs import remote
    from deploys.prune.removal import RefusedError, parse_removal, removal_command

    try:
        claim(host, _refuse)
    except ClaimError as error:
        raise RefusedError(f"{error}: does the host have flock (util-linux)?") from error
    # What was read before may have changed until now.
    judgement = _judge(host, settings)
    # Sent again after a broken line, but only with the claim: what it takes and leaves is of now.
    output = remote(host.state, host, removal_command(judgement.unused))
    became = parse_removal(list(output.stdout_lines))
    told = {item.path: became.get(item.path, "no word of it") for item in judgement.unused}
    return judgement, {path: why for path, why in told.items() if why}


def _refuse(holder: str) -> None:
    from deploys.prune.removal import RefusedError

    raise RefusedError(f"another converge works here ({holder}): run again when it is done")

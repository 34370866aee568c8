"""After the write: OpenCode itself is asked how the configuration resolves for its user.

Run as that user, without a network where the host can do that, and bounded in time. What OpenCode
doesn't take is put back as it was, so that a user is never left with less than before, and the next
converge tries again. What it takes is noted, so that a run which was cut off between the write and
the question is made up for by the next one, which finds the files as they should be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pyinfra.api import StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from deploys.common.claims import OvertakenError
from deploys.common.files import ManagedFile, file_digest, write_command
from deploys.common.jobs import give_up, remote
from deploys.common.opencode_resolved import config_differences, opencode_said
from deploys.common.shell import operand
from deploys.opencode.config import system_config
from facts.files import FileState
from facts.live import LiveOpenCode, LiveUser, parse_live_opencode
from facts.opencode import ACCEPTED
from inventories.settings import OpenCodeSettings


@dataclass(frozen=True)
class Check:
    """Whom to ask for, and what was written.

    + written: configurations written just now, with what was there before; those of a user who
      fails are put back. They may hold secrets of the user's
    + wanted: :func:`acceptance` of each user's configuration, noted once OpenCode takes it
    """

    settings: OpenCodeSettings
    users: tuple[str, ...]
    written: Mapping[ManagedFile, FileState | None] = field(repr=False)
    wanted: Mapping[str, str]


def acceptance(settings: OpenCodeSettings, name: str, files: Iterable[ManagedFile]) -> str:
    """What names all that a user's configuration resolves from, as it should be; never a secret.

    + files: everybody's
    """
    of_user = {f.path: file_digest(f) for f in files if f.as_user == name}
    shapes = [settings.version, system_config(settings), of_user]
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()


def noted(name: str, accepted: str) -> ManagedFile:
    """The note of what was accepted."""
    return ManagedFile(f"{ACCEPTED}/{name}", accepted + "\n", mode="600")


def check_users(state: State, host: Host, check: Check) -> bool:
    """Ask OpenCode about these users' configurations; False where one doesn't resolve."""
    written = check.written
    command = LiveOpenCode().command(check.users, {}, offline=True)
    try:
        answers = parse_live_opencode(remote(state, host, StringCommand(command)).stdout_lines)
        problems = {user.name: said for user in answers if (said := problem(check.settings, user))}
        for name in problems:
            for file, before in written.items():
                if file.as_user == name:
                    remote(state, host, _put_back(file, before))
        for name in check.users:
            if name not in problems:
                remote(state, host, write_command(noted(name, check.wanted[name])))
    except OvertakenError as error:
        return give_up(host, str(error))
    except ConnectError:
        return give_up(host, "lost the connection while OpenCode was checked: run again")
    for name, said in problems.items():
        back = any(file.as_user == name for file in written)
        why = (
            f"OpenCode does not take {name}'s configuration: {said}: mend it"
            + (" (the file is as it was before)" if back else "")
            + f", try `runuser -u {name} -- opencode debug config`, then run again"
        )
        give_up(host, why)
    return not problems


def problem(settings: OpenCodeSettings, user: LiveUser) -> str:
    """Why a user's configuration isn't what is declared; empty where it is."""
    try:
        config = json.loads(user.config) if user.exit_code == 0 else None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        return opencode_said(user.exit_code, user.error)
    return "; ".join(config_differences(settings, config))


def _put_back(file: ManagedFile, before: FileState | None) -> StringCommand:
    if before is None or before.content is None:
        return StringCommand(f"runuser -u {operand(file.as_user)} -- rm -f -- {operand(file.path)}")
    return write_command(replace(file, content=before.content.decode(), mode=before.mode))

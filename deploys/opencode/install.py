"""The installation of one OpenCode version: a job's script, and what its manifest says. Pure.

The npm package of a platform is a gzipped tar archive whose ``package/bin/opencode`` is the whole
program; no Node is needed. Beside it lies ``run``, which the command links to: it sets the
switches that keep OpenCode from fetching anything by itself, for every way of starting it.

Upstream behaviour relied on, seen with OpenCode 1.18.33: at each start it installs the npm package
``@opencode-ai/plugin`` into every configuration folder that it may write to, in the background,
and asks the public registry for it; no switch of its own stops that. It reads npm's settings from
the environment, so a registry for that one scope that leads nowhere does; packages of other scopes
(those of the user's own project, in OpenCode's shell) are not touched.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from deploys.common.archives import ARCHIVE_FUNCTIONS
from deploys.common.downloads import fetch_lines, fetch_probe, fetch_progress
from deploys.common.jobs import Job
from deploys.common.operations import HostError
from deploys.common.shell import operand, script_word, word
from facts.opencode import COMMAND, ROOT
from inventories.settings import Artifact, OpenCodeSettings

SWITCHES = (
    "OPENCODE_DISABLE_MODELS_FETCH",
    "OPENCODE_DISABLE_AUTOUPDATE",
    "OPENCODE_DISABLE_LSP_DOWNLOAD",
)

# A name that the shell can't export; `env` can.
NO_PLUGIN_PACKAGE = "npm_config_@opencode-ai:registry=file:///dev/null"


def run_path(version: str) -> str:
    """What ``/usr/local/bin/opencode`` links to."""
    return f"{ROOT}/{version}/run"


def run_script(version: str) -> str:
    """The text of ``run``."""
    switches = " ".join(f"{name}=1" for name in SWITCHES)
    return (
        "#!/bin/sh\n"
        "# Written by llamaherd. OpenCode itself lies beside this file.\n"
        f"export {switches}\n"
        f"exec env {word(NO_PLUGIN_PACKAGE)} "
        f'{operand(f"{ROOT}/{version}/opencode")} "$@"\n'
    )


def current_manifest(version: str, artifact: Artifact) -> dict[str, Any]:
    """What an installation's manifest must say, but for its binary's size, time and hash."""
    return {
        "version": version,
        "artifact": artifact.sha256,
        "run": hashlib.sha256(run_script(version).encode()).hexdigest(),
    }


_SCRIPT = """
mkdir -p -- {incoming}
{fetch}
cd {incoming}
rm -rf stage home; mkdir -m 755 stage; mkdir home
{unpack}chmod 755 stage/opencode
found=$(HOME=$PWD/home timeout 60 stage/opencode --version </dev/null) || {{
  echo "the binary does not run here (status $?): is it made for this processor and libc?" >&2
  exit 1
}}
if [ "$found" != {version} ]; then
  echo "the binary says version $found, the lock file says "{version} >&2
  exit 1
fi
printf %s {run} > stage/run; chmod 755 stage/run
sum=$(sha256sum < stage/opencode)
printf '%s, "size": %s, "mtime": %s, "sha256": "%s"}}\\n' {manifest} \\
  $(stat -c '%s %Y' stage/opencode) "${{sum%% *}}" > stage/manifest.json
chmod 644 stage/manifest.json
sync -f stage
if [ -e {final} ]; then rm -rf old; mv -T {final} old; fi
mv -T stage {final}
cd /; rm -rf -- {incoming}; rmdir --ignore-fail-on-non-empty {root}/.incoming
"""


def unpack_lines(archive: str) -> str:
    """Shell lines that leave the archive's binary at ``stage/opencode``, or refuse it."""
    name = operand(archive)
    return (
        f"{ARCHIVE_FUNCTIONS}"
        f"tar_inside {name}\n"
        f"tar -xzf {name} -C stage --no-same-owner --no-same-permissions --strip-components=2 "
        "package/bin/opencode\n"
        "no_links stage\n"
        "tree_inside stage\n"
    )


def install_job(version: str, artifact: Artifact) -> Job:
    """The job that fetches, verifies and installs a version."""
    incoming = f"{ROOT}/.incoming/{artifact.sha256[:16]}"
    manifest = json.dumps(current_manifest(version, artifact))
    script = _SCRIPT.format(
        incoming=operand(incoming),
        fetch=fetch_lines([artifact], incoming),
        unpack=unpack_lines(f"{incoming}/{artifact.name}"),
        archive=operand(f"{incoming}/{artifact.name}"),
        version=word(version),
        run=script_word(run_script(version)),
        manifest=word(manifest.removesuffix("}")),
        final=operand(f"{ROOT}/{version}"),
        root=ROOT,
    )
    return Job(
        name=f"opencode-{artifact.sha256[:16]}",
        title=f"installing OpenCode {version}",
        script=script,
        probe=fetch_probe([artifact], incoming),
        progress=lambda lines: fetch_progress([artifact], lines),
        remedy="see docs/troubleshooting/opencode.md",
    )


def link_script(version: str) -> str:
    """Points the command at a version, atomically."""
    new = f"{COMMAND}.llamaherd"
    return (
        f"set -eu; mkdir -p /usr/local/bin; ln -sfn {operand(run_path(version))} {new}; "
        f"mv -fT {new} {COMMAND}"
    )


def locked_artifact(settings: OpenCodeSettings, architecture: str) -> Artifact:
    """The program for a host of this architecture; HostError where the lock has none."""
    try:
        return settings.artifacts[architecture]
    except KeyError:
        known = ", ".join(sorted(settings.artifacts)) or "none"
        raise HostError(
            f"no OpenCode {settings.version} is locked for {architecture} (locked: {known}): "
            "run llamaherd lock --update opencode"
        ) from None

"""A host in order, read from outside: files, hashes, systemd, /proc and the live server.

Nothing here asks our own code: what it lays down is read with coreutils, systemctl and curl.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from converge_support import Site

# Files that are ours, whole. What holds a secret is compared by its hash as well.
UNIT = "llama-server@coder.service"
FILES = (
    f"/etc/systemd/system/{UNIT}",
    "/etc/llama-server/coder/wait-ready",
    "/etc/llama-server/coder/api-key",
    "/etc/sysusers.d/llama-server.conf",
    "/etc/opencode/opencode.json",
    "/home/dev/.config/opencode/opencode.json",
    "/home/dev/.config/opencode/llamaherd/llama.cpp.key",
    "/home/dev/.claude/settings.json",
    "/home/dev/.claude/llamaherd.key",
    "/usr/local/bin/opencode",
)
# Where files are laid down under a temporary name first.
FOLDERS = (
    "/etc/systemd/system /etc/llama-server /etc/opencode /etc/sysusers.d "
    "/home/dev/.config /home/dev/.claude /usr/local/bin"
)

_SCRIPT = r"""
section() { echo "@@ $1"; }
section files
for f in @FILES@; do
  [ ! -e "$f" ] || echo "$(sha256sum < "$f" | cut -d ' ' -f 1) $(stat -c '%a %U %G %F' "$f") $f"
done
section ends
for f in @FILES@; do
  case $f in /usr/*) continue;; esac
  [ ! -e "$f" ] || echo "$f $(head -n 1 "$f" | md5sum) $(tail -n 1 "$f" | md5sum)"
done
section temporary
find @FOLDERS@ -xdev -regextype posix-extended \
  \( -regex '.*/[^/]*\.[A-Za-z0-9]{8}' -o -name '*.llamaherd*' -o -name '*.new' \) \
  -type f 2>/dev/null
section tree
find @FOLDERS@ /var/lib/llamaherd/releases -xdev -type f -exec sha256sum {} + | sort -k 2
section packages
dpkg --audit
section installed
dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii *//p'
section models
find /var/lib/llamaherd/models -type f ! -path '*/.verified/*' -exec sha256sum {} +
section builds
for b in /opt/llama.cpp/*/ /opt/llama.cpp/.[!.]*/; do
  [ -d "$b" ] || continue
  echo "build $b"
  [ ! -x "$b/bin/llama-server" ] || "$b/bin/llama-server" --version 2>&1 | grep '^version'
  cat "$b/manifest.json" 2>/dev/null
done
section opencode
readlink /usr/local/bin/opencode
find /opt/opencode -type f -exec sha256sum {} +
section unit
systemctl show -p ActiveState,SubState,NeedDaemonReload,UnitFileState,MainPID @UNIT@
pid=$(systemctl show -P MainPID @UNIT@)
echo "exe=$(readlink /proc/$pid/exe)"
section releases
cd /var/lib/llamaherd/releases/coder && cmp current/unit /etc/systemd/system/@UNIT@ &&
  cmp current/etc/wait-ready /etc/llama-server/coder/wait-ready && echo kept
find /var/lib/llamaherd/releases -name '*.new' -o -name next -o -name old
section jobs
systemctl list-units --plain --no-legend --state=active,activating 'llamaherd-*.service'
find /var/lib/llamaherd/jobs /run/llamaherd/secrets -name 'secret.*' 2>/dev/null
[ ! -e /run/llamaherd/converge.lock ] || flock -n /run/llamaherd/converge.lock true || echo claimed
section answer
key=$(cat /etc/llama-server/coder/api-key)
ask() {
  printf 'header = "Authorization: Bearer %s"\n' "$key" |
    curl -s --max-time 60 --config - "http://127.0.0.1:8888$1" ${2:+--json "$2"}
  echo
}
ask /health; ask /v1/models; ask /v1/completions '{"prompt":"Once upon","max_tokens":2}'
"""


@dataclass(frozen=True)
class Outside:
    """What a host showed, by section."""

    sections: Mapping[str, tuple[str, ...]]

    def lines(self, section: str) -> tuple[str, ...]:
        """A section's lines, the empty ones aside."""
        return self.sections[section]

    def assert_right(self, golden: Outside, fleet: Path, *, same_fleet: bool) -> None:
        """Assert that the host is in order.

        + golden: the same host in order, under the first fleet
        + fleet: the fleet file in force; its lock says what the models are
        + same_fleet: whether it is the first one, under which every file must be the same
        """
        assert self.lines("temporary") == (), "temporary files were left"
        assert self.lines("jobs") == (), "a job, a secret or a claim was left"
        assert self.lines("packages") == (), "dpkg has something half installed"
        gone = set(golden.lines("installed")) - set(self.lines("installed"))
        assert gone == set(), "packages are missing"
        self._assert_models(fleet)
        self._assert_builds()
        assert self.lines("opencode") == golden.lines("opencode"), "OpenCode isn't whole"
        self._assert_files(golden, same_fleet=same_fleet)
        self._assert_serves()

    def assert_same_files(self, before: Outside) -> None:
        """Assert that units, releases and configurations are, file by file, what they were.

        What a refused converge may have brought first (packages, builds, models, OpenCode) isn't
        looked at.
        """
        for section in ("files", "tree"):
            changed = set(self.lines(section)) ^ set(before.lines(section))
            assert changed == set(), f"a refused converge changed files: {changed}"

    def _assert_models(self, fleet: Path) -> None:
        lock = yaml.safe_load(fleet.with_suffix(".lock.yaml").read_text())
        wanted = set(_gguf_hashes(lock))
        there = {line.split()[0] for line in self.lines("models")}
        names = [line for line in self.lines("models") if not line.endswith(".gguf")]
        assert names == [], "half model files were left"
        assert wanted
        assert wanted <= there, "a model is missing"
        assert there <= wanted, "a model file isn't what the lock file says"

    def _assert_builds(self) -> None:
        text = "\n".join(self.lines("builds"))
        builds = re.split(r"^build ", text, flags=re.M)[1:]
        assert builds
        for build in builds:
            path, version, manifest = build.strip().split("\n", 2)
            assert Path(path).name.startswith("b"), f"{path}: a work folder was left"
            assert version.startswith("version:"), build
            assert json.loads(manifest)["name"] == Path(path).name

    def _assert_files(self, golden: Outside, *, same_fleet: bool) -> None:
        if same_fleet:
            assert self.lines("files") == golden.lines("files")
        # Under another fleet they differ somewhere in the middle: a whole file has both its ends.
        assert self.lines("ends") == golden.lines("ends")

    def _assert_serves(self) -> None:
        unit = dict(line.split("=", 1) for line in self.lines("unit"))
        assert (unit["ActiveState"], unit["SubState"]) == ("active", "running"), unit
        assert unit["NeedDaemonReload"] == "no"
        assert unit["UnitFileState"] == "enabled"
        assert re.fullmatch(r"/opt/llama\.cpp/b[^/]+/bin/llama-server", unit["exe"]), unit["exe"]
        assert self.lines("releases") == ("kept",), "what serves isn't the release that was kept"
        health, models, completion = self.lines("answer")
        assert health == '{"status":"ok"}'
        assert [model["id"] for model in json.loads(models)["data"]] == ["smollm2"]
        assert json.loads(completion)["choices"][0]["text"], completion


def look(site: Site) -> Outside:
    """Read the host; one command."""
    script = _SCRIPT.replace("@FILES@", " ".join(FILES)).replace("@FOLDERS@", FOLDERS)
    script = script.replace("@UNIT@", UNIT)
    sections: dict[str, list[str]] = {}
    here = ""
    for line in site.ssh(script).splitlines():
        if line.startswith("@@ "):
            here = line.removeprefix("@@ ")
            sections[here] = []
        elif line.strip():
            sections[here].append(line)
    return Outside({name: tuple(lines) for name, lines in sections.items()})


def _gguf_hashes(node: Any) -> list[str]:
    """The SHA-256 of every model file that a lock file names."""
    if isinstance(node, list):
        return [found for item in node for found in _gguf_hashes(item)]
    if not isinstance(node, dict):
        return []
    name = str(node.get("name") or node.get("path") or "")
    own = [str(node["sha256"])] if name.endswith(".gguf") and "sha256" in node else []
    return own + [found for item in node.values() for found in _gguf_hashes(item)]

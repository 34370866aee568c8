"""Where secrets are after converges and reports of every kind: in their files, and nowhere else.

Every reference to a secret that a fleet file can hold has a generated value here. The host notes
each command that it is given, which is what any of its users could read off the process list.
"""

from __future__ import annotations

import http.server
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from converge_support import DEFAULTS, LAB, PROJECT, Site
from secret_hunt import Hunt, Seen, forms, processes_here, processes_there

import inventories.settings
from inventories.fleet import load_fleet
from inventories.lock import read_lock
from inventories.resolve import resolve_host
from inventories.settings import SecretReference

pytestmark = pytest.mark.lab

USER = "asker"
STAMP = "/var/tmp/stamp"
FLEET = (
    """\
version: 1
hub: {{token: {{env: T_HUB}}}}
drift: {{on_drift: {{webhook: {{env: T_WEBHOOK}}}}}}
models:
  smollm2:
    hub: {{repo: demo/SmolLM2-135M-Instruct-GGUF, quant: Q4_1}}
  twin:
    hub: {{repo: demo/SmolLM2-135M-Instruct-GGUF, quant: Q4_1, token: {{command: [cat, model]}}}}
"""
    + DEFAULTS
    + """\
hosts:
  box:
    ssh:
      hostname: {alias}
      user: asker
      config_file: {ssh_config}
      password: {{file: word}}
      sudo_password: {{command: [cat, word]}}
    servers:
      coder: {{model: smollm2, port: 8888, context: 8192, api_key: {{env: T_SERVER}}}}
      other: {{model: twin, port: 8889, context: 512, parallel: 1, slot_save: true}}
    opencode:
      users: [dev]
      default: far
      providers: {{far: {{server: far/coder}}, near: {{server: coder}}}}
    clients: {{claude_code: {{users: [dev], server: coder}}}}
  far:
    ssh: {{hostname: 127.0.0.1, port: 9}}
    servers:
      coder:
        {{model: smollm2, port: 8888, host: 0.0.0.0, context: 8192, api_key: {{file: far-key}}}}
"""
)
# Which of them lie on the host, where, as what.
HELD = {
    ("T_SERVER", "/etc/llama-server/coder/api-key"): "root:root 600",
    ("T_SERVER", "/home/dev/.claude/llamaherd.key"): "dev:dev 600",
    ("T_SERVER", "/home/dev/.config/opencode/llamaherd/near.key"): "dev:dev 600",
    ("far-key", "/home/dev/.config/opencode/llamaherd/far.key"): "dev:dev 600",
    ("T_SERVER", "/var/lib/llamaherd/releases/coder/#/etc/api-key"): "root:root 600",
    # systemd's own, on a file system in memory that the process alone sees.
    ("T_SERVER", "/run/credentials/llama-server@coder.service/api-key"): "llama-server:root 400",
}
# Every file that a converge lays down: where, whose, and the least mode that works. A server's
# account reads its preset and template itself; scripts of ours are root's to read and run by sh.
ENTRIES = [
    (r"/etc/llama-server(/\w+)?", "root:root 755"),
    (r"/etc/llama-server/coder/api-key", "root:root 600"),
    (r"/etc/llama-server/\w+/(wait-ready|slots)", "root:root 600"),
    (r"/etc/opencode", "root:root 755"),
    (r"/etc/opencode/opencode\.json", "root:root 644"),
    (r"/etc/systemd/system/llama-server@\w+\.service", "root:root 644"),
    (r"/etc/sysusers\.d/llama-server\.conf", "root:root 644"),
    (r"/home/dev/\.claude|/home/dev/\.config(/opencode(/llamaherd)?)?", "dev:dev 755"),
    (r"/home/dev/\.claude/llamaherd\.key", "dev:dev 600"),
    (r"/home/dev/\.claude/settings\.json", "dev:dev 644"),
    (r"/home/dev/\.config/opencode/llamaherd/\w+\.key", "dev:dev 600"),
    # OpenCode itself makes the first of the two.
    (r"/home/dev/\.config/opencode/(\.gitignore|opencode\.json)", "dev:dev 644"),
    (r"/opt/llama\.cpp(/b[\w.-]+)?", "root:root 755"),
    (r"/opt/llama\.cpp/b[\w.-]+/bin(/llama-server)?", "root:root 555"),
    (r"/opt/llama\.cpp/b[\w.-]+/manifest\.json", "root:root 444"),
    (r"/opt/opencode(/[\d.]+)?", "root:root 755"),
    (r"/opt/opencode/[\d.]+/manifest\.json", "root:root 644"),
    (r"/opt/opencode/[\d.]+/(run|opencode)", "root:root 755"),
    (r"/var/lib/llama-server", "root:root 755"),
    (r"/var/lib/llama-server/(coder|other|other/slots)", "llama-server:llama-server 700"),
    (r"/var/lib/llamaherd", "root:root 755"),
    (r"/var/lib/llamaherd/jobs(/[\w.-]+)?", "root:root 700"),
    (r"/var/lib/llamaherd/jobs/[\w.-]+/run", "root:root 600"),
    (r"/var/lib/llamaherd/jobs/[\w.-]+/(log|status|[\w-]+\.log)", "root:root 644"),
    (r"/var/lib/llamaherd/jobs/[\w.-]+/report", "root:root 600"),
    (r"/var/lib/llamaherd/models(/[\w.-]+){0,3}", "root:root 755"),
    (r"/var/lib/llamaherd/models(/[\w.-]+){3}/[\w.-]+\.gguf", "root:root 644"),
    (r"/var/lib/llamaherd/models(/[\w.-]+){3}/\.verified", "root:root 755"),
    (r"/var/lib/llamaherd/models(/[\w.-]+){3}/\.verified/[\w.-]+\.json", "root:root 644"),
    (r"/var/lib/llamaherd/opencode", "root:root 755"),
    (r"/var/lib/llamaherd/opencode/dev", "root:root 600"),
    (r"/var/lib/llamaherd/releases", "root:root 700"),
    (r"/var/lib/llamaherd/releases/\w+(/[0-9a-f]+(/etc)?)?", "root:root 700"),
    (r"/var/lib/llamaherd/releases/\w+/lock", "root:root 600"),
    (r"/var/lib/llamaherd/releases/coder/[0-9a-f]+/etc/api-key", "root:root 600"),
    (r"/var/lib/llamaherd/releases/\w+/[0-9a-f]+/etc/(wait-ready|slots)", "root:root 600"),
    (r"/var/lib/llamaherd/releases/\w+/[0-9a-f]+/(unit|check|timeout|uses)", "root:root 644"),
    (r"/var/lib/llamaherd/uploads", "root:root 711"),
]
# What else changes on a host: the packages' own, this test's, and folders that got an entry.
OTHERS = (
    r"/(etc|opt|run|tmp|home/dev|var/lib|var/log|var/tmp)|/(usr|var/cache|var/log|var/tmp)/.*"
    r"|/var/lib/(apt|dpkg|systemd|private|ucf|python)(/.*)?|/home/asker(/.*)?|/tmp/.*"
    r"|/etc/(alternatives|bash_completion\.d|dpkg|ssh/.*|systemd/system|sysusers\.d|gshadow-?)"
    r"|/etc/(group-?|passwd-?|shadow-?|ld\.so\.cache|ld\.so\.conf\.d|subuid-?|subgid-?|\.pwd\.lock)"
    r"|/etc/systemd/system/multi-user\.target\.wants|/var|/usr|/root(/.*)?|/etc/(perl|cron\..*)"
)
# What a change is made of, so that each converge has all of its secrets to lay down anew.
UNDO = (
    "rm -rf /etc/llama-server/coder/api-key /home/dev/.claude/llamaherd.key "
    "/home/dev/.config/opencode/llamaherd /var/lib/llamaherd/models/demo"
)
CHANGING = [
    ("-v", "--diff"),
    ("-vv",),
    ("-vvv", "--diff", "--debug"),
    ("--json",),
]
LOOKING = [
    ("--dry",),
    ("--dry", "--diff", "-vvv", "--debug-all"),
    ("--dry", "--json"),
    ("--debug-operations",),
    ("--debug-facts",),
]
RECORDER = """#!/bin/sh
printf '%s\\n' "$SSH_ORIGINAL_COMMAND" >> /var/tmp/recorded
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class Place:
    """A site whose secrets are known, and what was seen of them so far."""

    site: Site
    hunt: Hunt
    folder: Path
    here: Seen
    there: Seen
    told: list[str]
    outputs: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of ours, its output kept."""
        done = self.site.run(*command)
        self.outputs[" ".join(command)] = done.stdout + done.stderr
        return done


class Webhook(http.server.BaseHTTPRequestHandler):
    """Takes whatever comes and notes its path."""

    told: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.told.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A host after converges and reports of every kind."""
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host, serve_hub

    names = ("T_HUB", "T_WEBHOOK", "T_SERVER", "model", "word", "far-key")
    hunt = Hunt(
        {name: f"s{secrets.token_hex(20)}" for name in names}
        | {"control": "c0ntr0l-" + secrets.token_hex(8)}
    )
    folder = tmp_path_factory.mktemp("secrets")
    told: list[str] = []
    webhook = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Hook", (Webhook,), {"told": told})
    )
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    with lab_host(f"secrets-{secrets.token_hex(3)}") as lab:
        for name in ("model", "word", "far-key"):
            (folder / name).write_text(hunt.secrets[name] + "\n")
            (folder / name).chmod(0o600)
        prepare(lab, hunt.secrets["word"])
        fleet = folder / "box.yaml"
        fleet.write_text(FLEET.format(project=PROJECT, alias=lab.alias, ssh_config=lab.ssh_config))
        (folder / "tmp").mkdir()
        environment = dict(os.environ) | {
            "HF_ENDPOINT": serve_hub(lab),
            "T_WEBHOOK": f"http://127.0.0.1:{webhook.server_port}/{hunt.secrets['T_WEBHOOK']}",
            "TMPDIR": str(folder / "tmp"),
            "XDG_STATE_HOME": str(folder / "state"),
            **{name: hunt.secrets[name] for name in ("T_HUB", "T_SERVER")},
        }
        site = Site(lab, fleet, environment, hunt.secrets["T_SERVER"])
        with processes_here(hunt) as here, processes_there(hunt, lab.ssh) as there:
            found = Place(site, hunt, folder, here, there, told, {})
            subprocess.run(["sh", "-c", "sleep 1; :", hunt.secrets["control"]], check=True)
            lab.run(f"sh -c 'sleep 1; :' {hunt.secrets['control']}")
            everything(found)
        yield found
    webhook.shutdown()


def prepare(lab: Any, word: str) -> None:
    """An account that must give a password to ssh and to sudo, and whose commands are noted."""

    def run(command: str, text: str) -> None:
        subprocess.run([*lab.ssh(), command], input=text, text=True, check=True)

    run(
        f"useradd --create-home --shell /bin/bash --groups sudo {USER}; chpasswd; touch {STAMP}",
        f"{USER}:{word}",
    )
    run("install -m 755 /dev/stdin /usr/local/sbin/recorder", RECORDER)
    run(
        f"install -m 600 -o {USER} /dev/null /var/tmp/recorded; "
        "cat > /etc/ssh/sshd_config.d/recorder.conf; systemctl restart ssh",
        f"Match User {USER}\n  ForceCommand /usr/local/sbin/recorder\n",
    )


def everything(place: Place) -> None:
    """Every command that has to do with a host, in every way that it can be called."""
    site, fleet = place.site, str(place.site.fleet)
    locked = place.run("llamaherd", "lock", fleet, "--json")
    assert locked.returncode == 0, locked.stderr
    changes = [("-vvv", "--diff", "--debug-all"), *CHANGING, ()]
    for options in changes:
        site.ssh(UNDO)
        converge = ("pyinfra", "inventory.py", "deploy.py", "--limit", "box")
        done = place.run(*converge, "-y", *options)
        assert done.returncode == 0, f"{options}: {(done.stdout + done.stderr)[-3000:]}"
    for options in LOOKING:
        site.ssh(UNDO)
        place.run("pyinfra", "inventory.py", "deploy.py", "--limit", "box", *options)
    place.run("pyinfra", "inventory.py", "debug-inventory", "--debug")
    place.run("pyinfra", "inventory.py", "debug-inventory", "--json")
    reports = place.folder / "reports"
    reports.mkdir()
    files = [f"--{name}={reports / name}" for name in ("html", "prometheus", "junit")]
    limit = ("--limit", "box")
    # Of the whole fleet: a check of some hosts tells nobody and is not kept.
    place.run("llamaherd", "drift", fleet, "--json", "--notify", *files)
    place.run("llamaherd", "plan", fleet, *limit, "--json")
    place.run("llamaherd", "plan", fleet, *limit)
    assert place.site.converge("--limit", "box").returncode == 0
    place.run("llamaherd", "drift", fleet, "--deep", "--notify")
    place.run("llamaherd", "verify", fleet, *limit, "--json")
    place.run("llamaherd", "verify", fleet, *limit)
    for more in ((), ("--origin",), ("--json",), ("--origin", "--json")):
        place.run("llamaherd", "show", "box", fleet, *more)
    place.run("llamaherd", "validate", fleet, "--json")
    place.run(
        *("llamaherd", "onboard", f"{USER}@{site.lab.alias}", "--fleet", fleet),
        *(
            "--ssh-config",
            str(site.lab.ssh_config),
            "--password",
            f"file:{place.folder}/word",
            "--json",
        ),
    )


def references(settings: object) -> set[SecretReference]:
    """Every reference to a secret in a tree of settings."""
    if isinstance(settings, SecretReference):
        return {settings}
    if is_dataclass(settings):
        return set().union(*(references(getattr(settings, each.name)) for each in fields(settings)))
    if isinstance(settings, tuple):
        return set().union(*map(references, settings))
    return set()


def test_every_setting_that_refers_to_a_secret_has_one_here(place: Place) -> None:
    fleet = load_fleet(place.site.fleet)
    lock = read_lock(place.site.fleet)
    assert lock is not None
    found = references(resolve_host(fleet, lock, "box"))
    named = {each.env or each.file or (each.command or ())[-1] for each in found}
    assert {Path(name).name for name in named} == set(place.hunt.secrets) - {"T_WEBHOOK", "control"}
    places = {
        (kind.__name__, name)
        for kind in vars(inventories.settings).values()
        if isinstance(kind, type) and is_dataclass(kind)
        for name, hint in get_type_hints(kind).items()
        if SecretReference in get_args(hint)
    }
    # A new one belongs into the fleet above.
    assert places == {
        ("SshSettings", "password"),
        ("SshSettings", "sudo_password"),
        ("Adapter", "token"),
        ("ModelSettings", "token"),
        ("ServerSettings", "api_key"),
        ("OpenCodeProvider", "api_key"),
        ("ClaudeCodeSettings", "api_key"),
    }


def test_no_process_ever_had_one_among_its_arguments(place: Place) -> None:
    for seen in (place.here, place.there):
        assert seen.rounds > 100
        # The control is there on purpose: a sampler that sees nothing shows nothing.
        assert seen.secrets == {"control"}
    recorded = place.site.ssh("cat /var/tmp/recorded")
    assert recorded.count("sudo -H -A -k") > 50
    assert place.hunt.within(recorded) == set()


def test_no_output_and_no_report_holds_one(place: Place) -> None:
    assert len(place.outputs) >= 20
    for command, output in place.outputs.items():
        assert output, command
        assert place.hunt.within(output) == set(), command
    assert place.told == [f"/{place.hunt.secrets['T_WEBHOOK']}"] * len(place.told) != []


def test_the_controller_keeps_none(place: Place) -> None:
    given = {(name, str(place.folder / name)) for name in ("model", "word", "far-key")}
    assert place.hunt.in_files(place.folder) == given
    assert (place.folder / "reports" / "html").stat().st_size > 0
    assert list((place.folder / "state").rglob("*.json")), "reports are kept there"
    for name in ("pyinfra-debug.log",):
        log = PROJECT / name
        assert not log.exists() or place.hunt.within(log.read_text(errors="replace")) == set()


def test_on_the_host_they_lie_in_their_files_alone(place: Place) -> None:
    # Patterns on standard input: the search itself has none among its arguments.
    found = {}
    for name, secret in place.hunt.secrets.items():
        if name == "control":
            continue
        done = subprocess.run(
            [*place.site.lab.ssh(), "grep -rlsaFf - --exclude-dir=proc --exclude-dir=sys /"],
            input="".join(f"{form}\n" for form in forms(secret)),
            capture_output=True,
            text=True,
            check=False,
        )
        for path in done.stdout.splitlines():
            found[name, path] = place.site.ssh(f"stat -c '%U:%G %a' '{path}'")
    places = {
        (name, re.sub("/[0-9a-f]{16}/", "/#/", path)): how for (name, path), how in found.items()
    }
    assert places == HELD


def test_no_log_of_the_host_holds_one(place: Place) -> None:
    journal = read(place, "journalctl --no-pager --output=export")
    assert journal.count("MESSAGE=") > 100
    assert place.hunt.within(journal) == set()
    logs = read(
        place, "find /var/log /var/lib/llamaherd/jobs -type f ! -path '*/journal/*' -exec cat {} +"
    )
    assert len(logs) > 1000
    assert place.hunt.within(logs) == set()


def read(place: Place, command: str) -> str:
    """What a command says on the host, whatever bytes they are."""
    done = subprocess.run([*place.site.lab.ssh(), command], capture_output=True, check=False)
    return done.stdout.decode("latin-1")


def test_every_file_that_a_converge_lays_down_has_the_least_mode(place: Place) -> None:
    listed = place.site.ssh(
        f"find / -xdev -newer {STAMP} ! -type l -printf '%u:%g %m %p\\n'"
    ).splitlines()
    matched = set()
    wrong = []
    for line in listed:
        owner, mode, path = line.split(" ", 2)
        if re.fullmatch(OTHERS, path):
            continue
        rules = [rule for rule in ENTRIES if re.fullmatch(rule[0], path)]
        matched.update(rules)
        if [how for _, how in rules] != [f"{owner} {mode}"]:
            wrong.append(f"{line}: {[how for _, how in rules]}")
    assert wrong == []
    assert set(ENTRIES) - matched == set(), "what no converge lays down any more"

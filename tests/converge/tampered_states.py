"""States that a host can be brought into behind llamaherd's back, and what a drift check says.

The host serves :data:`SERVERS` and has OpenCode; each batch is laid on it at once, so the states of
a batch touch different things. Shell runs as root on the host, with :data:`PREAMBLE` before it.
"""

from __future__ import annotations

from dataclasses import dataclass

SERVERS = ("coder", "second", "third", "fourth", "fifth", "sixth")
FIRST_PORT = 8888

PREAMBLE = r"""
set -eu
# Other tests may have left builds beside the one that serves.
BUILD=$(grep -ho '/opt/llama.cpp/b[^/]*' /etc/systemd/system/llama-server@coder.service | head -n 1)
[ -n "$BUILD" ] || BUILD=$(ls -d /opt/llama.cpp/b* 2>/dev/null | head -n 1)
MODEL=$(ls /var/lib/llamaherd/models/*/*/*/*.gguf 2>/dev/null || :)
OPENCODE=$(ls -d /opt/opencode/[0-9]* 2>/dev/null | head -n 1)
CONFIG=/home/dev/.config/opencode/opencode.json
SAVED=/root/saved
mkdir -p "$SAVED"
unit() { echo "/etc/systemd/system/llama-server@$1.service"; }
# $1: server, $2: file name; the text comes on standard input
drop_in() { mkdir -p "$(unit "$1").d"; cat > "$(unit "$1").d/$2.conf"; }
until_active() {
  for _ in $(seq 240); do
    ! systemctl is-active --quiet "llama-server@$1" || return 0
    sleep 0.5
  done
  echo "llama-server@$1 did not become active" >&2
  return 1
}
"""


@dataclass(frozen=True)
class Seen:
    """A finding, or several of a kind; ``subject`` and ``summary`` are regular expressions."""

    plane: str
    component: str
    subject: str
    summary: str = ""


@dataclass(frozen=True)
class State:
    """One tampered state.

    + tamper: brings it about
    + seen: findings that there must be; none for what is nobody's business
    + echoes: findings that there may be besides, as consequences
    + by_hand: what a person does about it; empty where the next converge mends it
    + survives: succeeds before and after the converge: what isn't ours stays as it is
    + gone: succeeds after the converge
    """

    name: str
    tamper: str
    seen: tuple[Seen, ...] = ()
    echoes: tuple[Seen, ...] = ()
    by_hand: str = ""
    survives: str = ""
    gone: str = ""


@dataclass(frozen=True)
class Batch:
    """States that are laid on the host together.

    + servers: how many of SERVERS the host has then; after a build each is started anew
    """

    name: str
    states: tuple[State, ...]
    servers: int = len(SERVERS)


def declared(component: str, subject: str, summary: str = "") -> Seen:
    """A finding on the plane of what converge would do."""
    return Seen("declared", component, subject, summary)


def running(subject: str, summary: str = "", component: str = "llama_server") -> Seen:
    """A finding on the plane of what runs."""
    return Seen("running", component, subject, summary)


def port(server: str) -> int:
    """The port of one of the host's servers."""
    return FIRST_PORT + SERVERS.index(server)


def unit_file(server: str) -> str:
    """Path of a server's unit, as a pattern."""
    return f"/etc/systemd/system/llama-server@{server}\\.service"


def service(server: str) -> str:
    """Name of a server's unit, as a pattern."""
    return f"llama-server@{server}\\.service"


def server_file(server: str, name: str) -> str:
    """Path of a file of a server's."""
    return f"/etc/llama-server/{server}/{name}"


MODEL_FILE = r"/var/lib/llamaherd/models/.*\.gguf"
USER_CONFIG = r"/home/dev/\.config/opencode/opencode\.json"
SYSTEM_CONFIG = r"/etc/opencode/opencode\.json"
USER_KEY = r"/home/dev/\.config/opencode/llamaherd/llama\.cpp\.key"
STALE = running(service("coder"))
"""The process of a program, or with a model, that lies there no more."""

FILES = Batch(
    "files",
    (
        State(
            "unit file edited",
            "sed -i 's/^RestartSec=5/RestartSec=6/' $(unit coder)",
            (declared("llama_server", unit_file("coder"), "content differs"),),
        ),
        State(
            "unit mode changed",
            "chmod 600 $(unit second)",
            (declared("llama_server", unit_file("second"), "^mode 600 -> 644$"),),
        ),
        State(
            "unit owner changed",
            "chown dev:dev $(unit third)",
            (declared("llama_server", unit_file("third"), "^owner dev:dev -> root:root$"),),
        ),
        State(
            "API key edited",
            "echo another > /etc/llama-server/fourth/api-key",
            (declared("llama_server", server_file("fourth", "api-key"), "content differs"),),
            echoes=(running(service("fourth"), "API key"),),
        ),
        State(
            "API key readable by all",
            "chmod 644 /etc/llama-server/fifth/api-key",
            (declared("llama_server", server_file("fifth", "api-key"), "^mode 644 -> 600$"),),
        ),
        State(
            "readiness check edited",
            "echo 'exit 0' >> /etc/llama-server/sixth/wait-ready",
            (declared("llama_server", server_file("sixth", "wait-ready"), "content differs"),),
        ),
        State(
            "account's declaration removed",
            "rm /etc/sysusers.d/llama-server.conf",
            (declared("llama_server", r"/etc/sysusers\.d/llama-server\.conf", "missing"),),
        ),
        State(
            "distribution's package removed",
            "dpkg --remove --force-depends ripgrep >/dev/null",
            (declared("packages", "ripgrep", "not installed"),),
        ),
        State(
            "model truncated",
            "truncate -s 1000000 $MODEL",
            (declared("models", MODEL_FILE, "^1000000 bytes -> 98362432$"),),
        ),
        State(
            "OpenCode's system configuration edited",
            'sed -i \'s/"disabled"/"auto"/\' /etc/opencode/opencode.json',
            (declared("opencode", SYSTEM_CONFIG, "content differs"),),
        ),
        State(
            "user's own keys in the user's configuration",
            'sed -i \'1a "theme": "nord",\' $CONFIG',
            survives="grep -q nord $CONFIG",
        ),
        State(
            "user's key file readable by all",
            "chmod 644 /home/dev/.config/opencode/llamaherd/llama.cpp.key",
            (declared("opencode", USER_KEY, "^mode 644 -> 600$"),),
        ),
        State(
            "stranger's unit with a name like ours",
            "printf '[Service]\\nExecStart=/bin/sleep 1d\\n' > $(unit theirs)\n"
            "systemctl start --no-block llama-server@theirs",
            survives="systemctl is-active --quiet llama-server@theirs",
        ),
        State(
            "unit of ours that is declared no longer",
            "sed s/@coder/@other/ $(unit second) > $(unit other)",
            (declared("llama_server", service("other"), "declared no longer"),),
            gone="test ! -e $(unit other)",
        ),
    ),
)

PROCESSES = Batch(
    "processes",
    (
        State(
            "service stopped",
            "systemctl stop llama-server@coder",
            (running(service("coder"), "it is inactive"),),
        ),
        State(
            "service disabled",
            "systemctl disable --quiet llama-server@second",
            (running(service("second"), "^disabled"),),
        ),
        State(
            "server's folder removed",
            "rm -r /etc/llama-server/second",
            (
                declared("llama_server", server_file("second", "api-key"), "missing"),
                declared("llama_server", server_file("second", "wait-ready"), "missing"),
            ),
            echoes=(running(service("second"), "API key"),),
        ),
        State(
            "service stopped and masked",
            # systemd masks no unit that has a file there: an administrator moves it away.
            "systemctl stop llama-server@third\n"
            "mv $(unit third) $SAVED/; ln -s /dev/null $(unit third); systemctl daemon-reload",
            (running(service("third"), "masked"),),
            echoes=(
                running(service("third"), "it is inactive"),
                declared("llama_server", unit_file("third")),
            ),
            by_hand="systemctl unmask --quiet llama-server@third",
        ),
        State(
            "process started by hand with other arguments",
            "systemctl stop llama-server@fourth\n"
            f"setsid $BUILD/bin/llama-server --model $MODEL --port {port('fourth')} "
            "--ctx-size 512 </dev/null >/dev/null 2>&1 &\n"
            "echo $! > $SAVED/by-hand.pid",
            (
                running(f"port {port('fourth')}", "taken by llama-server"),
                # In the stranger's own words.
                running(service("fourth"), "context: 512 a slot, expected 8192"),
            ),
            echoes=(
                running(service("fourth"), "it is inactive"),
                running(service("fourth"), "^(model|slots): "),
            ),
            by_hand="kill $(cat $SAVED/by-hand.pid)",
        ),
        State(
            "drop-in added and reloaded, process not restarted",
            # Two seconds: the age of a process is known in whole ones.
            "sleep 2; printf '[Service]\\nNice=2\\n' | drop_in sixth 10-nice\n"
            "systemctl daemon-reload",
            (running(service("sixth"), "10-nice.conf is newer than its process"),),
            survives="test -e $(unit sixth).d/10-nice.conf",
        ),
        State(
            "drop-in added, not reloaded",
            "printf '[Service]\\nNice=1\\n' | drop_in fifth 10-nice",
            (running(service("fifth"), "drop-in"),),
            survives="test -e $(unit fifth).d/10-nice.conf",
        ),
        State(
            "model's record of verification removed",
            "rm $(dirname $MODEL)/.verified/*.json",
            (declared("models", MODEL_FILE, "there is no record"),),
        ),
        State(
            "OpenCode's program replaced",
            "cp /bin/true $OPENCODE/opencode.new; mv $OPENCODE/opencode.new $OPENCODE/opencode",
            (declared("opencode", "/opt/opencode/.*", "not the one that was installed"),),
        ),
        State(
            "server's address changed in the user's configuration",
            'sed -i \'s,"baseURL": "[^"]*","baseURL": "http://127.0.0.1:1/v1",\' $CONFIG',
            (declared("opencode", USER_CONFIG, "content differs"),),
        ),
    ),
)

LIVE = Batch(
    "live servers",
    (
        State(
            "another process on the port",
            "systemctl stop llama-server@sixth\n"
            "setsid perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new("
            f'LocalAddr => "127.0.0.1:{port("sixth")}", Listen => 1, ReuseAddr => 1) or die; '
            "sleep 86400' </dev/null >/dev/null 2>&1 &\n"
            "echo $! > $SAVED/stranger.pid",
            (running(f"port {port('sixth')}", "taken by perl"),),
            echoes=(running(service("sixth"), "it is inactive"),),
            by_hand="kill $(cat $SAVED/stranger.pid)",
        ),
        State(
            "process from an older unit",
            "cp -p $(unit second) $SAVED/\n"
            "sed -i 's/LLAMAHERD_CONFIG=[0-9a-f]*/LLAMAHERD_CONFIG=0123456789abcdef/' "
            "$(unit second)\n"
            "systemctl daemon-reload; systemctl restart --no-block llama-server@second\n"
            "until_active second; cp -p $SAVED/llama-server@second.service $(unit second)\n"
            "systemctl daemon-reload",
            (running(service("second"), "another configuration"),),
        ),
        State(
            "another context in the live server, by a drop-in",
            "{ echo '[Service]'; echo ExecStart=; "
            "grep ^ExecStart= $(unit third) | sed 's/--ctx-size [0-9]*/--ctx-size 4096/'; } | "
            "drop_in third 90-context\n"
            "systemctl daemon-reload; systemctl restart llama-server@third",
            (running(service("third"), "context: "),),
            by_hand="rm $(unit third).d/90-context.conf; systemctl daemon-reload",
        ),
        State(
            "process killed, started again by systemd",
            "kill -9 $(systemctl show -P MainPID llama-server@fourth); sleep 1\n"
            "until_active fourth",
            (
                running(
                    service("fourth"), r"^crashes: systemd restarted it .*, the last time \d+ s ago"
                ),
            ),
            by_hand="systemctl restart llama-server@fourth",
        ),
        State(
            "crash loop",
            "printf '[Service]\\nRestartSec=1\\nExecStart=\\nExecStart=/bin/false\\n' | "
            "drop_in fifth 90-false\n"
            "systemctl daemon-reload; systemctl restart --no-block llama-server@fifth; sleep 4",
            (
                running(
                    service("fifth"), "^crashes: systemd restarted it .*, it is (activating|failed)"
                ),
            ),
            echoes=(running(service("fifth"), "^it is (activating|failed)"),),
            by_hand="rm $(unit fifth).d/90-false.conf; systemctl daemon-reload",
        ),
        State(
            "process with other arguments under the very unit",
            "cp -p $(unit coder) $SAVED/\n"
            "sed -i '/^ExecStart=/s/$/ --verbosity 1/' $(unit coder)\n"
            "systemctl daemon-reload; systemctl restart llama-server@coder\n"
            "cp -p $SAVED/llama-server@coder.service $(unit coder); systemctl daemon-reload",
            (running(service("coder"), r"other arguments \(--verbosity"),),
        ),
        State(
            "reboot pending",
            "echo linux-image-amd64 > /run/reboot-required.pkgs; touch /run/reboot-required",
            (running("host", r"a reboot is pending \(linux-image-amd64\)", "preflight"),),
            # What a reboot does.
            by_hand="rm /run/reboot-required /run/reboot-required.pkgs",
        ),
        State(
            "model touched",
            "touch -d '2020-01-01' $MODEL",
            (declared("models", MODEL_FILE, "time or inode changed"),),
        ),
        State(
            "OpenCode's start script edited",
            "sed -i 's/OPENCODE_DISABLE_AUTOUPDATE=1//' $OPENCODE/run",
            (declared("opencode", "/opt/opencode/.*", "not the one that was installed"),),
        ),
        State(
            "model changed in the user's configuration",
            'sed -i \'s,"model": "[^"]*","model": "cloud/other",\' $CONFIG',
            (declared("opencode", USER_CONFIG, "content differs"),),
        ),
    ),
)

REPLACED = Batch(
    "build's program replaced",
    (
        State(
            "program replaced under its final name",
            "cp /bin/false $BUILD/bin/new; mv $BUILD/bin/new $BUILD/bin/llama-server",
            (declared("llama_cpp", "/opt/llama.cpp/.*/bin/llama-server", "not the file"),),
            echoes=(STALE,),
        ),
        State(
            "model deleted",
            "rm $MODEL",
            (declared("models", MODEL_FILE, "missing"),),
            echoes=(STALE,),
        ),
        State(
            "user's configuration broken",
            "cp -p $CONFIG $SAVED/; echo '{' > $CONFIG",
            (declared("opencode", "OpenCode", "not JSON"),),
            by_hand="cp -p $SAVED/opencode.json $CONFIG",
        ),
        State(
            "OpenCode's system configuration removed",
            "rm /etc/opencode/opencode.json",
            (declared("opencode", SYSTEM_CONFIG, "missing"),),
        ),
        State(
            "OpenCode's command points elsewhere",
            "ln -sfn /opt/opencode/0.0.1/run /usr/local/bin/opencode",
            (declared("opencode", "/usr/local/bin/opencode", "0.0.1"),),
        ),
    ),
    servers=1,
)

DELETED = Batch(
    "build's program deleted",
    (
        State(
            "program deleted",
            "rm $BUILD/bin/llama-server",
            (declared("llama_cpp", "/opt/llama.cpp/.*/bin/llama-server", "not the file"),),
            echoes=(STALE,),
        ),
        State(
            "system account removed",
            "systemctl stop 'llama-server@*'; userdel llama-server",
            (declared("llama_server", "llama-server", "system account is missing"),),
            echoes=(STALE,),
        ),
        State(
            "OpenCode removed",
            "rm -r $OPENCODE",
            (declared("opencode", "/opt/opencode/.*", "not installed"),),
        ),
        State(
            "user's API key edited",
            "echo another > /home/dev/.config/opencode/llamaherd/llama.cpp.key",
            (declared("opencode", USER_KEY, "content differs"),),
        ),
    ),
    servers=1,
)

BUILD = Batch(
    "build removed",
    (
        State(
            "build folder removed",
            "rm -r $BUILD",
            (declared("llama_cpp", "/opt/llama.cpp/.*", "not built"),),
            echoes=(STALE,),
        ),
        State(
            "user deleted",
            "userdel dev",
            (
                declared("opencode", "OpenCode", "no account dev"),
                declared("claude_code", "Claude Code", "no account dev"),
            ),
            by_hand="useradd --no-create-home --uid $(stat -c %u /home/dev) dev",
        ),
        State(
            "OpenCode's command replaced by a file",
            "rm /usr/local/bin/opencode; cp /bin/true /usr/local/bin/opencode",
            (declared("opencode", "OpenCode", "llamaherd did not make"),),
            by_hand="rm /usr/local/bin/opencode",
        ),
    ),
    servers=1,
)

MANIFEST = Batch(
    "build's manifest removed",
    (
        State(
            "build's manifest removed",
            "rm $BUILD/manifest.json",
            (declared("llama_cpp", "/opt/llama.cpp/.*", "not built"),),
            echoes=(STALE,),
        ),
    ),
    servers=1,
)

BATCHES = (FILES, PROCESSES, LIVE, REPLACED, DELETED, BUILD, MANIFEST)

"""A stranger listens where a server should."""

from __future__ import annotations

from fault import SAYS, Fault, Serving
from fault_bed import SERVER, Bed, wait
from fault_outside import look

SERVERS = "    servers:\n"
OPENCODE = "opencode: {users: [dev]}"
SECOND = (
    (SERVERS, f"{SERVERS}      second: {{model: smollm2, port: 8889, context: 8192}}\n"),
    (OPENCODE, OPENCODE.replace("}", ", default: coder}")),
)
PID = "/run/stranger.pid"


def stranger(bed: Bed, port: int) -> None:
    """A process of somebody's that listens, and answers nothing."""
    bed.undo.append(f"! [ -e {PID} ] || kill $(cat {PID}); rm -f {PID}")
    bed.sh(
        "setsid perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new("
        f'LocalAddr => "127.0.0.1:{port}", Listen => 1, ReuseAddr => 1) or die; sleep 86400\' '
        f"</dev/null >/dev/null 2>&1 & echo $! > {PID}"
    )
    wait(lambda: bed.sh(f"ss -Hltn 'sport = :{port}'"), "the stranger listens")


def on_a_new_servers(bed: Bed) -> None:
    bed.sh("dpkg --remove --force-depends ripgrep")  # something to do, long before the servers
    stranger(bed, 8889)
    bed.notes["host"] = everything(bed)


def everything(bed: Bed) -> str:
    """All of a host that a converge could change, read from outside."""
    seen = look(bed.site)
    return "\n".join(
        line for name in seen.sections if name != "answer" for line in (name, *seen.lines(name))
    )


def on_a_stopped_servers(bed: Bed) -> None:
    bed.sh(f"systemctl stop {SERVER}")
    stranger(bed, 8888)


def ended_before_anything(bed: Bed) -> None:
    assert everything(bed) == bed.notes["host"], "the refused converge changed the host"
    ended(bed)


def ended(bed: Bed) -> None:
    bed.sh(f"kill $(cat {PID}); rm {PID}")


FAULTS = (
    Fault(
        "on a new server's port",
        "port",
        "a second server is declared, and a process of somebody's listens on its port",
        f"{SAYS}who has the port, and which setting is another way out; nothing is changed before",
        on_a_new_servers,
        quick=True,
        changes=SECOND,
        says=r"port 8889 of server second is taken by perl\S*: stop that, or set servers\.second",
        mend=ended_before_anything,
    ),
    Fault(
        "on a stopped server's port",
        "port",
        "a server was stopped, and a process of somebody's listens on its port since",
        f"{SAYS}who has the port, and which setting is another way out",
        on_a_stopped_servers,
        serving=Serving.DOWN,
        says=r"port 8888 of server coder is taken by perl\S*: stop that, or set servers\.coder",
        mend=ended,
    ),
)

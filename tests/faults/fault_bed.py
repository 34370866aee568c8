"""The lab host that is broken and must heal: how cases act on it, and how it is put back.

One host serves all cases. What a case did to the network, to the hub and to commands of the host
is undone after it; a host that doesn't come back to order is thrown away and made anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import machines
from converge_support import FLEET, PROJECT, Site, changed
from downloads import HUB_ROOT
from fault import Fault, Serving
from fault_outside import Outside, look
from hub import Hub
from lab import lab_host

MODELS = "/var/lib/llamaherd/models"
SERVER = "llama-server@coder.service"
# Before the distribution's own in everybody's PATH: sudo's, systemd's, and a login's.
WRAPPERS = "/usr/local/sbin"
HELD = "/run/fault"

# A command that stands still when its arguments hold PATTERN for the TIMEth time, and from then on,
# until it is told to go on. A shell that has run the command before doesn't look for it again.
_WRAPPER = r"""#!/bin/sh
# Laid by a fault: stands still where the arguments say so.
case " $* " in
*PATTERN*)
  echo >> HELD/NAME.seen
  if [ "$(wc -l < HELD/NAME.seen)" -ge TIME ]; then
    echo $$ > HELD/NAME.held
    while [ ! -e HELD/NAME.go ]; do sleep 0.05; done
  fi;;
esac
exec REAL "$@"
"""


@dataclass
class Running:
    """A converge that is left running, and what it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """Everything that it said so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 180) -> None:
        """Until it has said ``text``; AssertionError when it ends before, or takes too long."""
        wait(lambda: text in self.text or self.process.poll() is not None, text, seconds, 0.02)
        assert text in self.text, f"it ended without {text!r}:\n{self.text[-2000:]}"

    def kill(self) -> None:
        """SIGKILL: it can't say anything to anybody."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self, seconds: float = 300) -> int:
        """Its exit status; it is killed when it takes longer, which fails the case."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it never ended:\n{self.text[-2000:]}") from None


def wait(look: Callable[[], Any], what: str, seconds: float = 120, pause: float = 0.1) -> Any:
    """The first true value of ``look``; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(pause)
    raise AssertionError(f"it never came: {what}")


@dataclass
class Bed:
    """The host, its hub, and the fleet file in force.

    + site: the host and how its project's commands are run
    + hub: serves the models; its ``rate``, ``stall``, ``token`` and ``fault`` may be changed by a
      case
    + in_order: False from the start of a case until all that it asserts was true
    + golden: the host in order, as it was read after its first converge
    + undo: shell that takes back what a case did to the host, the last one first; run after it
    + notes: what a case saw and compares later
    + lent: what a case opened on this machine, closed after it
    """

    site: Site
    hub: Hub
    folder: Path
    golden: Outside
    fleet: Path
    in_order: bool = True
    running: list[Running] = field(default_factory=list)
    undo: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    lent: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    variants: dict[tuple[tuple[str, str], ...], Path] = field(default_factory=dict)

    # --- what cases do ---------------------------------------------------------------------

    def sh(self, command: str) -> str:
        """What a command says on the host, run by root; it may fail."""
        return self.site.ssh(command)

    def converge(self, *options: str) -> subprocess.CompletedProcess[str]:
        """``pyinfra inventory.py deploy.py -y`` with the case's fleet."""
        return self.site.converge(*options, fleet=self.fleet)

    def start(self, *options: str) -> Running:
        """The same, left running."""
        log = self.folder / f"converge-{secrets.token_hex(4)}.log"
        with log.open("wb") as output:
            running = Running(self._spawn(output, options), log)
        self.running.append(running)
        return running

    def _spawn(self, output: IO[bytes], options: tuple[str, ...]) -> subprocess.Popen[bytes]:
        from converge_support import BIN

        return subprocess.Popen(
            [str(BIN / "pyinfra"), "inventory.py", "deploy.py", "-y", *options],
            cwd=PROJECT,
            env=self.site.environment | {"FLEET": str(self.fleet), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    @contextlib.contextmanager
    def held(self, command: str, pattern: str, time: int = 1) -> Iterator[Held]:
        """``command`` on the host stands still where its arguments match the shell's ``pattern``.

        + time: at which match; those before go on
        Once let go, and after the block, it does what it always does.
        """
        hold = Held(self, command, f"{WRAPPERS}/{command}")
        real = self.sh(f"command -v {shlex.quote(command)}")
        assert real.startswith("/"), f"no {command} on the host"
        text = _WRAPPER.replace("PATTERN", pattern).replace("HELD", HELD)
        text = text.replace("NAME", command).replace("REAL", real).replace("TIME", str(time))
        self.sh(
            # Whoever runs it says there that it stands.
            f"rm -rf {HELD}; mkdir -m 1777 {HELD}; "
            f"printf %s {shlex.quote(text)} > {hold.path}.new; "
            f"chmod 755 {hold.path}.new; mv {hold.path}.new {hold.path}"
        )
        try:
            yield hold
        finally:
            hold.release()

    @contextlib.contextmanager
    def held_dpkg(self) -> Iterator[Held]:
        """dpkg stands still when it has unpacked packages and configured none of them."""
        hold = Held(self, "dpkg", "/etc/dpkg/dpkg.cfg.d/fault")
        hook = f"echo $$ > {HELD}/dpkg.held; while [ ! -e {HELD}/dpkg.go ]; do sleep 0.05; done"
        script = f'#!/bin/sh\n[ "$DPKG_HOOK_ACTION" = unpack ] || exit 0\n{hook}\n'
        path = "/root/dpkg-hook"
        self.sh(
            f"rm -rf {HELD}; mkdir -m 1777 {HELD}; "
            f"printf {shlex.quote(script)} > {path}; chmod 755 {path}; "
            f"echo post-invoke={path} > {hold.path}"
        )
        try:
            yield hold
        finally:
            hold.release()

    def forget_builds(self) -> None:
        """Every build but the one that serves was never made."""
        serving = self.sh(f"readlink /proc/$(systemctl show -P MainPID {SERVER})/exe")
        (name,) = re.findall(r"^/opt/llama\.cpp/(b[^/]+)/", serving)
        self.sh(
            f"cd /opt/llama.cpp && find . -mindepth 1 -maxdepth 1 ! -name {name} | xargs rm -rf"
        )

    def forget_model(self) -> None:
        """No model file there, and no record of one: the next converge fetches it."""
        self.sh(f"rm -rf {MODELS}/*")

    def forget_opencode(self) -> None:
        """OpenCode was never installed."""
        self.sh("rm -rf /opt/opencode /usr/local/bin/opencode")

    def job(self, name: str) -> str:
        """The unit of a running job whose name begins so; empty while there is none."""
        return self.sh(
            f"systemctl list-units --plain --no-legend --state=active 'llamaherd-{name}*.service' "
            "| cut -d ' ' -f 1"
        )

    def wait_for_job(self, name: str) -> str:
        """The unit of a job, as soon as it runs."""
        return str(wait(lambda: self.job(name), f"job {name}"))

    def part_bytes(self) -> int:
        """How much of a model file has arrived under its temporary name."""
        return int(self.sh(f"cat {MODELS}/*/*/*/*.part 2>/dev/null | wc -c") or 0)

    def process(self) -> str:
        """The server's main process, as number and start time; empty when there is none."""
        return self.sh(
            f"p=$(systemctl show -P MainPID {SERVER}); [ $p = 0 ] || "
            'echo $p $(cut -d ")" -f 2 /proc/$p/stat | cut -d " " -f 21)'
        )

    def starts_of(self, unit: str, since: str) -> int:
        """How often systemd started units of that name (a pattern) since a time of the host's."""
        text = self.sh(
            f"journalctl -o cat --no-pager _PID=1 -u '{unit}' --since @{since} | grep -c ^Started"
        )
        return int(text or 0)

    def now(self) -> str:
        """Seconds since the epoch, by the host's clock."""
        return self.sh("date +%s")

    # --- power and network -----------------------------------------------------------------

    def cut_power(self) -> None:
        """Every process of the host is gone at once."""
        machines.cut_power(self.site.lab)

    def boot(self) -> None:
        """The host comes back with the files that it had."""
        try:
            machines.boot(self.site.lab)
        finally:
            self.site.lab = machines.load(self.site.lab.name)

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Nothing reaches the host, and it reaches nobody: its cable is pulled."""
        bridge = self.site.lab.network.bridge
        subprocess.run(["ip", "link", "set", bridge, "down"], check=True)
        try:
            yield
        finally:
            self.reconnect()

    @contextlib.contextmanager
    def dropped(self, rule: str, hook: str = "input") -> Iterator[None]:
        """This machine drops the packets that an nftables rule matches, and says nothing.

        + hook: ``input`` for what comes from the host, ``output`` for what goes to it
        """
        table = f"fault-{self.site.lab.identity}"
        chain = f"type filter hook {hook} priority 0; {rule} drop;"
        subprocess.run(["nft", f"table ip {table} {{ chain cut {{ {chain} }}; }}"], check=True)
        try:
            yield
        finally:
            subprocess.run(["nft", "delete", "table", "ip", table], check=True)

    def ports_of(self, run: Running) -> str:
        """Our ends of a run's connections to the host, as an nftables set."""
        text = subprocess.run(
            ["ss", "-Htnp", "dst", f"{self.site.lab.address}:22"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        lines = [line for line in text.splitlines() if f"pid={run.process.pid}," in line]
        ports = [line.split()[3].rpartition(":")[2] for line in lines]
        assert ports, text
        return f"{{ {', '.join(ports)} }}"

    def kill_sessions(self) -> None:
        """sshd's processes that serve the fleet's user are killed; the host runs on."""
        killed = self.sh(
            "p=$(ps -eo pid=,args= | awk '/sshd: ops/ && !/awk/ {print $1}'); kill -9 $p; echo $p"
        )
        assert killed, "no session to kill"

    def reconnect(self) -> None:
        """The cable is plugged in again."""
        network = self.site.lab.network
        subprocess.run(["ip", "link", "set", network.bridge, "up"], check=True)

    # --- before and after a case -----------------------------------------------------------

    def use(self, changes: tuple[tuple[str, str], ...]) -> None:
        """Take the first fleet file, or one that differs from it so."""
        self.fleet = self.site.fleet
        if not changes:
            return
        if changes not in self.variants:
            name = f"variant-{len(self.variants)}"
            self.variants[changes] = self.site.variant(name, *changes)
        self.fleet = self.variants[changes]

    def restore(self) -> None:
        """Undo what a case did to the lab; bring the host back to the first fleet."""
        for running in self.running:
            if running.process.poll() is None:
                running.kill()
        self.running.clear()
        self.hub.rate = self.hub.stall = self.hub.token = self.hub.fault = None
        self.reconnect()
        if not self.site.lab.process.is_running:
            self.boot()
        while self.undo:
            self.sh(self.undo.pop())
        self.notes.clear()
        self.lent.close()
        self.sh(f"rm -rf {HELD} {WRAPPERS}/* /etc/dpkg/dpkg.cfg.d/fault")
        if not self.in_order or self.fleet != self.site.fleet:
            self.fleet = self.site.fleet
            result = self.converge()
            assert result.returncode == 0, tail(result)
        self.in_order = True


@dataclass
class Held:
    """A command of the host that stands still.

    + path: the file that makes it do so
    """

    bed: Bed
    command: str
    path: str

    def wait(self, seconds: float = 120) -> None:
        """Until it stands."""
        wait(lambda: self.process, f"{self.command} held", seconds)

    @property
    def process(self) -> str:
        """Its process on the host; empty while none stands."""
        return self.bed.sh(f"cat {HELD}/{self.command}.held 2>/dev/null")

    def kill_all(self) -> None:
        """SIGKILL to it, to the shell that waits for it, and to all jobs: nothing goes on."""
        pid = self.process
        self.bed.sh(
            f"p=$(ps -o ppid= {pid}); kill -9 $p {pid}; "
            "for u in $(systemctl list-units --plain --no-legend 'llamaherd-*.service' | "
            "cut -d ' ' -f 1); do systemctl kill --signal=KILL $u; done"
        )
        wait(lambda: not self.bed.job(""), "the end of the jobs")

    def forget(self) -> None:
        """On a host that is off: after the boot nothing stands still any more."""
        upper = self.bed.site.lab.directory / "upper"
        (upper / self.path.removeprefix("/")).unlink()

    def release(self) -> None:
        """Let it go on, and nothing stand still any more."""
        self.bed.sh(f"rm -f {self.path}; [ ! -d {HELD} ] || : > {HELD}/{self.command}.go")


def tail(result: subprocess.CompletedProcess[str]) -> str:
    """The last of what a run said."""
    return (result.stdout + result.stderr)[-3000:]


@contextlib.contextmanager
def made_bed(folder: Path) -> Iterator[Bed]:
    """A lab host that one converge has brought in order, and a hub that can be told to fail."""
    with (
        lab_host(f"fault-{secrets.token_hex(3)}") as lab,
        Hub(HUB_ROOT, bind=lab.gateway) as hub,
    ):
        key = f"test-{secrets.token_hex(16)}"
        environment = dict(os.environ) | {"HF_ENDPOINT": hub.url, "TEST_API_KEY": key}
        path = folder / "box.yaml"
        path.write_text(FLEET.format(project=PROJECT, alias=lab.alias, ssh_config=lab.ssh_config))
        site = Site(lab, path, environment, key)
        locked = site.run("llamaherd", "lock", str(path))
        assert locked.returncode == 0, locked.stderr
        first = site.converge()
        assert first.returncode == 0, tail(first)
        yield Bed(site, hub, folder, look(site), path)


def run_fault(bed: Bed, fault: Fault) -> None:
    """Carry a case out on a host in order, and assert what is true of all of them."""
    bed.in_order = False
    bed.use(fault.changes)
    before = bed.process()
    assert before, "the host is not in order"
    files = look(bed.site) if fault.puts_back else None
    fault.carry_out(bed)
    if fault.serving is not Serving.DOWN:
        assert bed.sh("curl -s http://127.0.0.1:8888/health") == '{"status":"ok"}'
    if fault.serving in (Serving.SAME, Serving.UNTIL_HEALED):
        assert bed.process() == before, "what served before was touched"
    if fault.says:
        _a_person_acts(bed, fault, files or look(bed.site))
    healed = bed.converge(*(["--json"] if fault.nothing_left else []))
    assert healed.returncode == 0, tail(healed)
    if fault.nothing_left:
        assert changed(healed) == [], "something was left to do"
    outside = look(bed.site)
    outside.assert_right(bed.golden, bed.fleet, same_fleet=bed.fleet == bed.site.fleet)
    if fault.serving is Serving.SAME:
        assert bed.process() == before, "the server was restarted for nothing"
    again = bed.converge("--json")
    assert again.returncode == 0, tail(again)
    assert changed(again) == [], "the second converge found something to do"
    bed.in_order = True


def _a_person_acts(bed: Bed, fault: Fault, files: Outside) -> None:
    refused = bed.converge()
    assert refused.returncode == 1, tail(refused)
    look(bed.site).assert_same_files(files)
    last = refused.stderr.rstrip().splitlines()[-3:]
    said = [line for line in last if re.search(fault.says, line)]
    assert len(said) == 1, refused.stderr[-2000:]
    assert fault.mend is not None
    fault.mend(bed)

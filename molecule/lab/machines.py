"""Lab hosts: systemd-nspawn machines with systemd as process 1, an sshd and a network of their own.

A lab host is an overlay over a base root, mounted in a mount namespace that lives and dies with
the machine's process: no mount is ever seen outside, and none can be left behind. Everything a
host is lies in ``.lab/<name>/``:

    lab.json      what was made, for whoever destroys it (see :class:`Lab`)
    ssh_config    ``ssh -F .lab/<name>/ssh_config llamaherd-<name>``
    key           a fresh key; authorised for root, ops (sudo without password) and dev
    known_hosts   the host's key, written before the host first boots: nothing is trusted blindly
    console.log   what the machine printed
    *.process     processes of this machine that serve the host (its hub), ended with it
    upper, work   the overlay's own layer

Each machine has a control group of its own (``lab-<id>`` below this process's) in the hierarchies
that systemd uses: two systemds in one group would fight over it. Needs root, systemd-nspawn,
``ip``, ``nft``, ``ssh`` and ``ssh-keygen``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from networks import Network, create_network, destroy_network
from roots import LabError, base_root, cache_directory

REPOSITORY = Path(__file__).resolve().parents[2]
STATE = REPOSITORY / ".lab"
CCACHE = "/var/cache/llamaherd/ccache"
ARCHIVES = "var/cache/apt/archives"
TOOLS = ("mmdebstrap", "systemd-nspawn", "ip", "nft", "unshare", "ssh", "ssh-keygen")
READY_SECONDS = 90
STOP_SECONDS = 30

# Runs as the machine's own process: joins its control groups, mounts, keeps systemd-nspawn running.
LAUNCH = """
set -eu
directory=$1; base=$2; groups=$3; shift 3
IFS=:
for group in $groups; do mkdir -p "$group"; echo $$ > "$group/cgroup.procs"; done
mount -t overlay overlay \
    -o "lowerdir=$base,upperdir=$directory/upper,workdir=$directory/work" "$directory/root"
unset IFS
# With --keep-unit, systemd-nspawn exits 133 where the host reboots, for whoever keeps the unit to
# start it again. SIGTERM ends the machine: it is passed on, and then waited for.
trap '[ -z "$machine" ] || kill -TERM "$machine" 2>/dev/null || :' TERM
machine=
while :; do
    "$@" &
    machine=$! status=0
    wait "$machine" || status=$?
    while kill -0 "$machine" 2>/dev/null; do status=0; wait "$machine" || status=$?; done
    [ "$status" = 133 ] || exit "$status"
done
"""


@dataclass(frozen=True)
class Process:
    """A process that we started; ``pid`` 0 is none.

    + started: its start time in clock ticks since boot, so that a stranger who got the same
      number later is never mistaken for it
    """

    pid: int = 0
    started: int = 0

    @property
    def is_running(self) -> bool:
        """Is it still there?"""
        return self.pid > 0 and _start_time(self.pid) == self.started


@dataclass(frozen=True)
class Lab:
    """One lab host.

    + name: as given; the ssh alias is ``llamaherd-<name>``
    + identity: 8 hex digits, different for another checkout's lab of the same name
    + suite: Debian release
    + base: its base root
    + network: bridge, subnet, addresses
    + binds: extra bind mounts, ``SRC:DST``
    + process: the machine's own
    """

    name: str
    identity: str
    suite: str
    base: str
    network: Network
    binds: tuple[str, ...] = ()
    process: Process = Process()

    @property
    def directory(self) -> Path:
        """Where its state lies."""
        return STATE / self.name

    @property
    def alias(self) -> str:
        """Its name in its ssh_config."""
        return f"llamaherd-{self.name}"

    @property
    def ssh_config(self) -> Path:
        """What ``ssh -F`` takes."""
        return self.directory / "ssh_config"

    @property
    def address(self) -> str:
        """Its address on its network."""
        return self.network.address

    @property
    def gateway(self) -> str:
        """This machine's address as the host sees it."""
        return self.network.gateway

    @property
    def machine(self) -> str:
        """What systemd-nspawn calls it."""
        return f"lab-{self.identity}"

    def ssh(self, *options: str, user: str = "root") -> list[str]:
        """The ssh command line that reaches it as ``user``; a command may follow."""
        return ["ssh", "-F", str(self.ssh_config), *options, f"{user}@{self.alias}"]

    def run(
        self, command: str, *, user: str = "root", check: bool = True, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host over SSH; LabError when it fails and ``check``."""
        result = subprocess.run(
            [*self.ssh("-o", "BatchMode=yes", user=user), command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and result.returncode != 0:
            raise LabError(f"{self.name}: {command}: {(result.stderr or result.stdout).strip()}")
        return result

    def save(self) -> None:
        """Write ``lab.json``, whole or not at all."""
        partial = self.directory / "lab.json.partial"
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        partial.rename(self.directory / "lab.json")


def load(name: str) -> Lab:
    """The lab of that name; LabError when there is none."""
    try:
        data = json.loads((STATE / name / "lab.json").read_text())
    except FileNotFoundError:
        raise LabError(f"no lab {name!r}: `lab.py list` names those that are there") from None
    network = Network(**data.pop("network"))
    process = Process(**data.pop("process"))
    return Lab(network=network, process=process, binds=tuple(data.pop("binds")), **data)


def identity_of(name: str) -> str:
    """8 hex digits for the lab of that name in this checkout, and for no other's."""
    return hashlib.sha256(os.fsencode(STATE / name)).hexdigest()[:8]


def labs() -> list[Lab]:
    """Every lab of this checkout, by name."""
    return [load(path.parent.name) for path in sorted(STATE.glob("*/lab.json"))]


def create(name: str, *, suite: str = "bookworm", binds: Sequence[str] = ()) -> Lab:
    """Boot a lab host and wait until it answers SSH and systemd has settled.

    Whatever stops it half-way (a signal turned into an exception included), everything made so
    far is removed: every name that a lab uses follows from its own. Raises LabError: no root, a
    tool missing, a lab of that name, no boot.
    """
    _require_tools()
    if not name.replace("-", "").isalnum() or not 0 < len(name) <= 20:
        raise LabError(f"{name!r} is no lab name: up to 20 letters, digits and hyphens")
    base = base_root(suite)
    lab = Lab(name, identity_of(name), suite, str(base), Network(identity_of(name)), tuple(binds))
    try:
        lab.directory.mkdir(parents=True)
    except FileExistsError:
        raise LabError(f"lab {name!r} exists: remove it with `lab.py destroy {name}`") from None
    try:
        lab.save()
        lab = dataclasses.replace(lab, network=create_network(lab.identity))
        lab.save()
        _seed(lab)
        lab = _launch(lab)
        _wait_until_ready(lab)
    except BaseException:
        # What was saved last knows more than ``lab`` does when a signal fell between the two.
        destroy(load(name) if (lab.directory / "lab.json").exists() else lab)
        raise
    return lab


def restart(lab: Lab) -> Lab:
    """Power the host off in order and boot it again; its files stay."""
    stop(lab)
    return boot(lab)


def boot(lab: Lab) -> Lab:
    """Boot a host that is off (:func:`stop`, :func:`cut_power`); its files are as they were."""
    lab = _launch(lab)
    _wait_until_ready(lab)
    return lab


def cut_power(lab: Lab) -> None:
    """End the host at once: all its processes are killed, and none of them is told before.

    What they wrote stays: it lies in this machine's memory, so a write that was never synced is
    not lost here as it may be on a real machine.
    """
    _end_groups(lab)
    _end(lab.process)


def stop(lab: Lab) -> None:
    """Power the host off in order; after STOP_SECONDS, and for whatever is left, by force."""
    # systemd-nspawn passes SIGTERM on as systemd's own "power off", and exits after it.
    _end(lab.process)
    _end_groups(lab)


def _end_groups(lab: Lab) -> None:
    for group in _groups(lab):
        _remove_group(group)
    # Left by systemd-nspawn 252 after a kill; empty, and named after our machine.
    with contextlib.suppress(OSError):
        Path("/run/systemd/nspawn/propagate", lab.machine).rmdir()


def start_process(lab: Lab, name: str, command: Sequence[str]) -> Process:
    """Start a process of this machine that serves the host; :func:`destroy` ends it.

    Its output goes to ``<name>.log`` in the lab's directory.
    """
    record = lab.directory / f"{name}.process"
    with (lab.directory / f"{name}.log").open("ab") as log, _uninterrupted():
        process = _start(command, log)
        record.write_text(json.dumps(dataclasses.asdict(process)) + "\n")
    return process


def destroy(lab: Lab) -> None:
    """Remove the host and everything made for it. May be called again after an interruption."""
    with _uninterrupted():
        for record in lab.directory.glob("*.process"):
            _end(Process(**json.loads(record.read_text())))
        stop(lab)
        destroy_network(lab.network)
        _keep_archives(lab)
        # lab.json goes last: as long as something is left there is something to destroy.
        for path in sorted(lab.directory.iterdir(), key=lambda path: path.name == "lab.json"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        lab.directory.rmdir()
        with contextlib.suppress(OSError):
            STATE.rmdir()


def _require_tools() -> None:
    if os.geteuid() != 0:
        raise LabError("a lab host needs root: it mounts, makes interfaces and boots a machine")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise LabError(f"not installed: {', '.join(missing)}: `make lab-tools` installs them")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put SIGINT, SIGTERM and SIGHUP off until the body is done: no clean-up stops short."""
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- what a host starts with ---------------------------------------------------------------


def _seed(lab: Lab) -> None:
    """Write what makes the host this host into the overlay's upper layer, before it first boots."""
    for name in ("upper", "work", "root"):
        (lab.directory / name).mkdir()
    shutil.copystat(lab.base, lab.directory / "upper")
    public = _make_keys(lab)
    _write(lab, "etc/hostname", f"{lab.name}\n")
    _write(lab, "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {lab.name}\n")
    _write(lab, "etc/machine-id", f"{uuid.uuid4().hex}\n", mode=0o444)
    _write(lab, "etc/resolv.conf", _resolv_conf())
    _write(lab, "etc/systemd/network/10-lab.network", _network_unit(lab))
    for home in ("root", "home/ops", "home/dev"):
        owner = Path(lab.base, home).stat()
        _directory(lab, f"{home}/.ssh", owner=owner, mode=0o700)
        _write(lab, f"{home}/.ssh/authorized_keys", public, mode=0o600, owner=owner)
    _seed_certificates(lab)
    _seed_archives(lab)
    (cache_directory() / "ccache").mkdir(exist_ok=True)
    proxies = [f"{name}={value}" for name, value in os.environ.items() if _is_proxy(name)]
    if proxies:
        _write(lab, "etc/environment", "\n".join(proxies) + "\n")


def _make_keys(lab: Lab) -> str:
    """A key for us and one for the host; the host's is known before anyone connects."""
    key = lab.directory / "key"
    _keygen(key, comment="lab")
    _directory(lab, "etc/ssh")
    host_key = lab.directory / "upper/etc/ssh/ssh_host_ed25519_key"
    _keygen(host_key, comment=lab.name)
    kind, blob, *_ = host_key.with_suffix(".pub").read_text().split()
    known_hosts = lab.directory / "known_hosts"
    known_hosts.write_text(f"{lab.address},{lab.alias} {kind} {blob}\n")
    lab.ssh_config.write_text(
        f"Host {lab.alias}\n"
        f"    HostName {lab.address}\n"
        f"    User root\n"
        f"    Port 22\n"
        f"    IdentityFile {key}\n"
        f"    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {known_hosts}\n"
        f"    StrictHostKeyChecking yes\n"
        f"    HostKeyAlgorithms ssh-ed25519\n"
        f"    LogLevel ERROR\n"
    )
    return key.with_suffix(".pub").read_text()


def _keygen(path: Path, *, comment: str) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def _network_unit(lab: Lab) -> str:
    return (
        "[Match]\nName=host0\n\n"
        f"[Network]\nAddress={lab.address}/24\nGateway={lab.gateway}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )


def _resolv_conf() -> str:
    """This machine's name servers; systemd-resolved's real ones where it only names its stub."""
    text = Path("/etc/resolv.conf").read_text()
    behind = Path("/run/systemd/resolve/resolv.conf")
    return behind.read_text() if "127.0.0.53" in text and behind.exists() else text


def _is_proxy(name: str) -> bool:
    return name.lower() in ("http_proxy", "https_proxy", "no_proxy")


def _seed_certificates(lab: Lab) -> None:
    """Trust what this machine trusts: its registries may be signed by an authority of its own."""
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if bundle and Path(bundle).exists():
        text = Path(bundle).read_text()
        _write(lab, "etc/ssl/certs/ca-certificates.crt", text)
    own = Path("/usr/local/share/ca-certificates")
    for path in sorted(own.glob("*.crt")) if own.is_dir() else ():
        _write(lab, f"usr/local/share/ca-certificates/{path.name}", path.read_text())


def _seed_archives(lab: Lab) -> None:
    """Packages fetched by earlier labs, as links; apt checks each against its index anyway.

    A directory of its own a host, not one shared mount: apt locks it, and gives up when it can't.
    """
    cache = cache_directory() / "archives" / lab.suite
    cache.mkdir(parents=True, exist_ok=True)
    target = _directory(lab, ARCHIVES)
    for package in cache.glob("*.deb"):
        try:
            os.link(package, target / package.name)
        except OSError:  # another file system
            shutil.copyfile(package, target / package.name)


def _keep_archives(lab: Lab) -> None:
    """The reverse of :func:`_seed_archives`: what this host fetched, for the next one."""
    cache = cache_directory() / "archives" / lab.suite
    source = lab.directory / "upper" / ARCHIVES
    for package in source.glob("*.deb") if source.is_dir() else ():
        if not (cache / package.name).exists():
            partial = cache / f".{package.name}.{lab.identity}"
            shutil.copyfile(package, partial)
            partial.rename(cache / package.name)


def _directory(
    lab: Lab, path: str, *, owner: os.stat_result | None = None, mode: int = 0o755
) -> Path:
    """A directory in the upper layer; one that the base has keeps the base's mode and owner."""
    target = lab.directory / "upper"
    for part in Path(path).parts:
        target = target / part
        if target.exists():
            continue
        target.mkdir()
        below = Path(lab.base) / target.relative_to(lab.directory / "upper")
        if below.is_dir():
            status = below.stat()
            os.chown(target, status.st_uid, status.st_gid)
            target.chmod(status.st_mode & 0o7777)
            continue
        target.chmod(mode)
        if owner is not None:
            os.chown(target, owner.st_uid, owner.st_gid)
    return target


def _write(
    lab: Lab, path: str, text: str, *, mode: int = 0o644, owner: os.stat_result | None = None
) -> None:
    target = _directory(lab, str(Path(path).parent)) / Path(path).name
    target.write_text(text)
    target.chmod(mode)
    if owner is not None:
        os.chown(target, owner.st_uid, owner.st_gid)


# --- the machine's process -----------------------------------------------------------------


def _launch(lab: Lab) -> Lab:
    """Start the machine in a session and a mount namespace of its own; records its process."""
    binds = [f"{cache_directory() / 'ccache'}:{CCACHE}", *lab.binds]
    nspawn = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        f"--machine={lab.machine}",
        f"--hostname={lab.name}",
        f"--directory={lab.directory / 'root'}",
        f"--network-bridge={lab.network.bridge}",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=pipe",
        *(f"--bind={bind}" for bind in binds),
        "--boot",
    ]
    groups = ":".join(str(group) for group in _groups(lab))
    launch = ["sh", "-c", LAUNCH, "launch", str(lab.directory), lab.base, groups, *nspawn]
    command = ["unshare", "--mount", "--propagation", "private", *launch]
    with (lab.directory / "console.log").open("ab") as console, _uninterrupted():
        lab = dataclasses.replace(lab, process=_start(command, console))
        lab.save()
    return lab


def _start(command: Sequence[str], output: IO[bytes]) -> Process:
    """Start a process in a session of its own: Ctrl-C at our terminal is ours to deal with."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_take_signals,
    )
    _CHILDREN[child.pid] = child
    return Process(child.pid, _start_time(child.pid))


# Our own children must be waited for, or they stay behind as zombies.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


def _take_signals() -> None:
    """A child inherits the mask of :func:`_uninterrupted`; the machine must hear SIGTERM."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot; 0 when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def _end(process: Process) -> None:
    """End a process of ours: SIGTERM, and SIGKILL when it is still there STOP_SECONDS later."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.is_running:
            os.kill(process.pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while process.is_running and time.monotonic() < deadline:
            time.sleep(0.05)
    child = _CHILDREN.pop(process.pid, None)
    if child is not None:
        child.wait()


def _wait_until_ready(lab: Lab) -> None:
    deadline = time.monotonic() + READY_SECONDS
    state = ""
    while time.monotonic() < deadline:
        if not lab.process.is_running:
            break
        state = _system_state(lab)
        if state in ("running", "degraded"):
            return
        time.sleep(0.3)
    console = (lab.directory / "console.log").read_text(errors="replace").splitlines()[-15:]
    raise LabError(
        f"lab {lab.name!r} didn't boot in {READY_SECONDS} s (state: {state or 'no answer'}); "
        "its console's last lines:\n" + "\n".join(console)
    )


def _system_state(lab: Lab) -> str:
    command = [*lab.ssh("-o", "ConnectTimeout=2"), "systemctl is-system-running --wait"]
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=READY_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return ""
    return result.stdout.strip()


def _groups(lab: Lab) -> list[Path]:
    """The machine's control groups: in systemd's hierarchy, and in the unified one if mounted."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            mounts[""] = where
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            mounts["name=systemd"] = where
    return [Path(where, lab.machine) for where in mounts.values()]


def _remove_group(group: Path) -> None:
    """Kill what is left in a control group of ours and remove it with all below it."""
    if not group.is_dir():
        return
    for _ in range(100):
        members = [pid for path in group.rglob("cgroup.procs") for pid in _members(path)]
        members += _members(group / "cgroup.procs")
        if not members:
            break
        for pid in set(members):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    below = [path for path in group.rglob("*") if path.is_dir()]
    for path in (*sorted(below, key=lambda path: -len(path.parts)), group):
        path.rmdir()


def _members(path: Path) -> list[int]:
    try:
        return [int(line) for line in path.read_text().split()]
    except OSError:
        return []

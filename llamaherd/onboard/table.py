"""The report for people: one block a box, a table over several, 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from deploys.common.progress import human_bytes
from facts.found_models import FoundModel
from facts.onboarding_values import Disk, Probe, Space
from llamaherd.onboard.report import Adoptable, Report, Serves
from llamaherd.tables import WIDTH, table

_SPEEDS = {"nvme": "NVMe", "ssd": "SSD", "hdd": "rotating", "unknown": "kind unknown"}
_MARKS = {"blocker": "BLOCKER", "warning": "warning", "info": "note"}
SHOWN_MODELS = 8
GIB = 1024**3


def render(report: Report) -> str:
    """One box, without a newline at the end."""
    head = f"{report.target.label}  ({_verdict(report)})"
    parts = [head]
    if report.probe is not None:
        rows = [[f"  {name}", value] for name, value in _rows(report, report.probe) if value]
        parts.append(table(rows))
        parts += ["", *_serves(report)]
    parts.append(_findings(report) or "  nothing stands in the way")
    return "\n".join(parts)


def _verdict(report: Report) -> str:
    if not report.reached:
        return "not reached"
    count = len(report.blockers)
    return "ready" if count == 0 else f"{count} blocker{'s' * (count > 1)}"


def _rows(report: Report, probe: Probe) -> Iterator[tuple[str, str]]:
    machine = probe.machine
    virtual = f"virtual ({machine.virtualization})" if machine.virtualization else ""
    yield "machine", ", ".join(filter(None, (f"{machine.vendor} {machine.model}".strip(), virtual)))
    yield (
        "system",
        ", ".join(filter(None, (machine.title, f"kernel {machine.kernel}", machine.libc))),
    )
    yield "compiler", machine.compiler or "none (converge installs one)"
    yield "processor", f"{machine.cpu or machine.architecture}, {machine.cores} usable cores"
    yield (
        "memory",
        (f"{human_bytes(machine.memory_total)}, {human_bytes(machine.memory_available)} available"),
    )
    for name, disk in _first("disks", list(map(_disk, probe.disks))):
        yield name, disk
    for name, space in _first("room", _spaces(probe.space)):
        yield name, space
    for name, gpu in _first("GPUs", _gpus(probe)):
        yield name, gpu
    yield "driver", _driver(probe)
    versions = sorted({toolkit.version for toolkit in probe.toolkits if toolkit.version})
    yield "CUDA toolkits", ", ".join(versions) or "none"
    for name, text in _first("software", _programs(probe)):
        yield name, text
    for name, text in _first("models", _models(report, probe)):
        yield name, text
    yield "ports in use", ", ".join(str(port) for port in sorted({x.port for x in probe.listeners}))
    yield "login", _login(report, probe)
    yield "clock", _clock(probe)
    yield "hub", _hub(probe)


def _first(name: str, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The name beside the first line only."""
    for index, line in enumerate(lines):
        yield (name if index == 0 else ""), line


def _disk(disk: Disk) -> str:
    kind = _SPEEDS.get(disk.speed, disk.speed)
    return f"{disk.device}, {human_bytes(disk.size)}, {kind}" + (disk.model and f", {disk.model}")


def _spaces(spaces: Sequence[Space]) -> list[str]:
    mounts: dict[str, list[Space]] = {}
    for space in spaces:
        mounts.setdefault(space.mount, []).append(space)
    return [
        f"{human_bytes(group[0].free)} free of {human_bytes(group[0].total)} for "
        f"{' and '.join(space.path for space in group)} ({group[0].filesystem} on {mount})"
        for mount, group in mounts.items()
    ]


def _gpus(probe: Probe) -> list[str]:
    lines = []
    for gpu in probe.gpus:
        memory = f", {gpu.memory_total / 1024:.0f} GiB" if gpu.memory_total else ""
        capability = f", compute {gpu.compute_capability}" if gpu.compute_capability else ""
        lines.append(f"{gpu.index}: {gpu.name}{memory}{capability}")
    shown = {card.address for card in probe.cards}
    hidden = [gpu for gpu in probe.pci if gpu.address not in shown]
    for pci in hidden if shown or not probe.gpus else hidden[len(probe.gpus) :]:
        lines.append(
            f"not usable: {pci.name or '10de:' + pci.device_id} at {pci.address}, "
            f"kernel driver {pci.driver or 'none'}"
        )
    return lines or ["none"]


def _driver(probe: Probe) -> str:
    driver = probe.driver
    version = driver.loaded or driver.userland
    if not version:
        words = "nouveau" if driver.nouveau else "none"
        return words + (f", {driver.installed} installed" if driver.installed else "")
    kind = {True: ", open modules", False: ", closed modules", None: ""}[driver.open_module]
    return f"{version}{kind}" + (f", runs CUDA up to {driver.cuda}" if driver.cuda else "")


def _programs(probe: Probe) -> list[str]:
    lines = []
    for program in probe.programs:
        state = "runs" if program.active else "doesn't run"
        lines.append(f"{program.kind} {program.version}".strip() + f", {program.path} ({state})")
    names = ", ".join(probe.onboarded.servers)
    return [*lines, *([f"llamaherd: servers {names}"] if names else [])]


def _models(report: Report, probe: Probe) -> list[str]:
    stands = {file.path: file for file in report.adoptable}
    # What a model of ours needs first: the rest is only there.
    models = sorted(probe.models, key=lambda model: model.path not in stands)
    lines = [_model(model, stands.get(model.path)) for model in models[:SHOWN_MODELS]]
    more = len(models) - SHOWN_MODELS
    return [*lines, *([f"and {more} more (--json lists them)"] if more > 0 else [])]


def _model(model: FoundModel, stands: Adoptable | None) -> str:
    text = f"{model.source}: {model.name}, {human_bytes(model.size)}"
    if stands is None:
        return text
    return f"{text}: {'is' if stands.certain else 'perhaps'} {stands.model}"


def _login(report: Report, probe: Probe) -> str:
    rights = {
        "root": "has all rights",
        "passwordless": "sudo without a password",
        "password": "sudo with a password",
        "none": "no sudo",
    }[probe.access.sudo]
    return f"{probe.access.user} with a {report.contact.login or 'key'}; {rights}"


def _clock(probe: Probe) -> str:
    clock = probe.clock
    offset = "" if clock.offset is None else f"{clock.offset:+.1f} s to this machine's"
    kept = {True: "synchronized", False: "not synchronized", None: ""}[clock.synchronized]
    return ", ".join(filter(None, (offset, kept, clock.zone)))


def _hub(probe: Probe) -> str:
    hub = probe.hub
    if not hub.endpoint:
        return ""
    if hub.error:
        return f"{hub.endpoint}: {hub.error}"
    speed = hub.bytes_per_second
    return f"{hub.endpoint}: " + (f"{speed / 1e6:.1f} MB/s" if speed else "answers, not measured")


def _serves(report: Report) -> list[str]:
    """The models as a table of its own; the numbers are what a GPU's memory goes to."""
    rows = [
        [
            model.model,
            model.quant,
            str(model.context),
            model.kv,
            *(f"{size / GIB:.1f}" for size in _parts(model)),
            ",".join(map(str, model.gpus)),
        ]
        for model in report.serves
    ]
    headers = ("CAN SERVE", "QUANT", "TOKENS", "K/V", "WEIGHTS", "CACHE", "COMP", "FREE", "GPU")
    lines = textwrap.indent(table(rows, headers, WIDTH - 2), "  ").splitlines() if rows else []
    if report.serves:
        lines.append(
            "  (tokens of one session; GiB; COMP: compute buffers, FREE: what is left free)"
        )
        first = report.serves[0]
        lines.append(_wrapped("  ", f"recommended: {first.model} {first.quant}: {first.reason}"))
    if report.serves_note:
        lines.append(_wrapped("  ", report.serves_note))
    return [*lines, ""] if lines else []


def _parts(model: Serves) -> tuple[int, int, int, int]:
    return (model.weights, model.cache, model.compute, model.margin)


def _findings(report: Report) -> str:
    lines = []
    for finding in report.findings:
        mark = f"  {_MARKS[finding.severity]:7}  "
        lines.append(_wrapped(mark, finding.message))
        if finding.remedy:
            lines.append(_wrapped(" " * len(mark) + "-> ", finding.remedy))
    return "\n".join(lines)


def _wrapped(start: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )


def summary(reports: Sequence[Report]) -> str:
    """Several boxes side by side."""
    headers = ("BOX", "STATE", "GPUS", "DRIVER", "MEMORY", "ROOM", "MEND FIRST")
    rows = [(_name(report, reports), *_summary_row(report)) for report in reports]
    ready = sum(report.ok for report in reports)
    return f"{table(rows, headers)}\n{ready} of {len(reports)} ready"


def _name(report: Report, reports: Sequence[Report]) -> str:
    """The box's label; with user and port as given where several reports have the same."""
    label = report.target.label
    same = sum(other.target.label == label for other in reports)
    return label if same == 1 else report.target.given


def _summary_row(report: Report) -> Sequence[str]:
    first = report.blockers[0].id if report.blockers else ""
    probe = report.probe
    if probe is None:
        return ("unreached", "", "", "", "", first)
    models = next((space for space in probe.space if space.path == "/var/lib"), None)
    return (
        "ready" if report.ok else "blocked",
        _gpu_summary(probe),
        probe.driver.loaded or probe.driver.userland or "none",
        f"{probe.machine.memory_total / GIB:.0f} GiB",
        f"{models.free / GIB:.0f} GiB" if models else "",
        first,
    )


def _gpu_summary(probe: Probe) -> str:
    counts: dict[str, int] = {}
    for gpu in probe.gpus:
        name = gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ").removeprefix("RTX ")
        counts[name] = counts.get(name, 0) + 1
    words = [f"{count}x {name}" if count > 1 else name for name, count in counts.items()]
    hidden = max(0, len(probe.pci) - len(probe.gpus))
    if hidden:
        words.append(f"{hidden} unusable")
    return ", ".join(words) or "none"

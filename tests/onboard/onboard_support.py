"""Boxes for tests: what a real one said, recorded, with sections of it replaced."""

from __future__ import annotations

# First of all: it patches the standard library for gevent.
import llamaherd.runner  # noqa: F401  # isort: skip

from dataclasses import replace
from pathlib import Path

from facts.onboarding_parse import parse_probe
from facts.onboarding_values import Probe
from facts.sections import SECTION, split_sections
from llamaherd.onboard.diagnosis import Expectations, diagnose
from llamaherd.onboard.report import Contact, HostKey, Report, Target

RECORDED = Path(__file__).parent / "recorded"
TARGET = Target("ops@10.0.0.17", "10.0.0.17", "ops", known_hosts="/home/me/.ssh/known_hosts")
KNOWN = HostKey("ssh-ed25519", "SHA256:" + "A" * 43, "known")
LOGGED_IN = Contact(KNOWN, ("publickey",), "key")

# As lspci -Dnnk and nvidia-smi print them.
LSPCI_4090 = """\
0000:01:00.0 VGA compatible controller [0300]: NVIDIA Corporation AD102 [GeForce RTX 4090] \
[10de:2684] (rev a1)
\tSubsystem: Gigabyte Technology Co., Ltd Device [1458:40bf]
\tKernel driver in use: nvidia
\tKernel modules: nvidiafb, nouveau, nvidia_drm, nvidia
0000:01:00.1 Audio device [0403]: NVIDIA Corporation AD102 High Definition Audio Controller \
[10de:22ba] (rev a1)
\tKernel driver in use: snd_hda_intel"""
LSPCI_5090 = """\
0000:02:00.0 VGA compatible controller [0300]: NVIDIA Corporation GB202 [GeForce RTX 5090] \
[10de:2b85] (rev a1)
\tKernel driver in use: nvidia"""
ROW_4090 = (
    "0, NVIDIA GeForce RTX 4090, GPU-6d1b8a52-0000-0000-0000-000000000001, "
    "24564, 24110, 580.65.06, 8.9"
)
ROW_5090 = (
    "1, NVIDIA GeForce RTX 5090, GPU-6d1b8a52-0000-0000-0000-000000000002, "
    "32607, 32110, 580.65.06, 12.0"
)
CARD_4090 = "GPU-6d1b8a52-0000-0000-0000-000000000001, 00000000:01:00.0, [N/A], 2"
CARD_5090 = "GPU-6d1b8a52-0000-0000-0000-000000000002, 00000000:02:00.0, [N/A], 2"
OPEN_MODULE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  "
    "(dvs-builder@U22-I3-AE18-09-6)  Sun Jul 27 07:08:55 UTC 2025"
)
CLOSED_MODULE = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025"
)
SMI = "CUDA Version: 13.0\nDriver Version: 580.65.06"

WORKING = {
    "lspci": LSPCI_4090,
    "gpus": ROW_4090,
    "cards": CARD_4090,
    "module": OPEN_MODULE,
    "modinfo": "580.65.06\nDual MIT/GPL",
    "smi": SMI,
}
"""Sections of a box with one RTX 4090 and a driver that shows it."""

BARE_CARD = {"lspci": LSPCI_4090.replace("\tKernel driver in use: nvidia\n", "")}
"""A card on the bus, and nothing of NVIDIA's installed."""


def output(base: str = "debian12-lab", **sections: str) -> list[str]:
    """A recorded answer with whole sections replaced; ``space_opt`` stands for ``space:/opt``."""
    recorded = split_sections((RECORDED / f"{base}.txt").read_text().splitlines())
    names = {"space_opt": "space:/opt", "space_var": "space:/var/lib"}
    for name, text in sections.items():
        recorded[names.get(name, name)] = text.splitlines()
    return [line for name, lines in recorded.items() for line in (f"{SECTION}{name}", *lines)]


def box(base: str = "debian12-lab", **sections: str) -> Probe:
    """What such an answer means; the box is on bare metal and its clock is right."""
    probe = parse_probe(output(base, **sections))
    machine = replace(probe.machine, virtualization="")
    return replace(probe, machine=machine, clock=replace(probe.clock, offset=0.1))


def report(
    probe: Probe | None, contact: Contact = LOGGED_IN, expected: Expectations | None = None
) -> Report:
    """The report on a box."""
    return Report(TARGET, contact, probe, (), diagnose(TARGET, contact, probe, expected))

"""Boxes in all conditions: what is said of them, how bad it is, and what would mend it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from onboard_support import (
    BARE_CARD,
    CARD_4090,
    CARD_5090,
    CLOSED_MODULE,
    KNOWN,
    LSPCI_4090,
    LSPCI_5090,
    OPEN_MODULE,
    ROW_4090,
    ROW_5090,
    TARGET,
    WORKING,
    box,
    report,
)

from facts.onboarding_values import HubAnswer, Probe
from llamaherd.onboard.diagnosis import Expectations, diagnose
from llamaherd.onboard.report import Contact, Finding

BOTH = {"lspci": f"{LSPCI_4090}\n{LSPCI_5090}"}
BOX = "hostname=gpu-01\nkernel=6.1.0-28-amd64\nvirtualization=none\nTimezone=Etc/UTC\n"
MISMATCH = (
    "Failed to initialize NVML: Driver/library version mismatch\n"
    "NVML library version: 580.95\nnvidia-smi exited 18"
)
NO_DRIVER_TALK = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure "
    "that the latest NVIDIA driver is installed and running.\nnvidia-smi exited 9"
)
OPEN_NEEDED = (
    "[    5.1] NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2b85)\n"
    "[    5.1] NVRM: installed in this system requires use of the NVIDIA open kernel modules."
)
FALLEN = (
    "[ 812.4] NVRM: GPU at PCI:0000:02:00: GPU-6d1b8a52-0000-0000-0000-000000000002\n"
    "[ 812.4] NVRM: Xid (PCI:0000:02:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen "
    "off the bus."
)
OLLAMA_MANIFEST = (
    "/usr/share/ollama/.ollama/models\nregistry.ollama.ai/library/qwen2.5-coder/32b\n"
    '{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.ollama.image.model",'
    '"digest":"sha256:' + "ac" * 32 + '","size":19851335840},{"mediaType":'
    '"application/vnd.ollama.image.template","digest":"sha256:' + "ad" * 32 + '","size":1482}]}'
)
FULL = "/dev/nvme0n1p2 ext4 499999997952 496999997952 3000000000 100% /"


def found(probe: Probe | None, name: str, contact: Contact | None = None) -> Finding:
    """The one finding of that name."""
    findings = report(probe, contact).findings if contact else report(probe).findings
    named = [finding for finding in findings if finding.id == name]
    assert named, [finding.id for finding in findings]
    return named[0]


def test_a_box_with_a_working_card_is_ready_and_nothing_is_warned_of() -> None:
    good = report(box(**WORKING))
    assert good.ok
    assert [finding.severity for finding in good.findings if finding.severity != "info"] == []


def test_driver_610_names_its_cuda_version_in_other_words() -> None:
    # As the banner says it, captured in utkuozdemir/nvidia_gpu_exporter, an RTX 2080 SUPER.
    probe = box(**{**WORKING, "smi": "CUDA UMD Version: 13.3"})
    assert probe.driver.cuda == "13.3"
    assert probe.driver.userland == probe.gpus[0].driver


BLOCKED = {
    "no driver": (BARE_CARD, "driver.missing", "GeForce RTX 4090 (01:00.0)", "install NVIDIA's"),
    "nouveau is bound": (
        {"lspci": LSPCI_4090.replace("in use: nvidia", "in use: nouveau"), "nouveau": "loaded"},
        "gpu.nouveau",
        "can't run CUDA",
        "blacklist nouveau",
    ),
    "a driver too old for the card": (
        WORKING | BOTH | {"module": CLOSED_MODULE},
        "driver.too-old",
        "RTX 5090 (02:00.0): driver 550.163.01",
        "580 or newer with the open modules",
    ),
    "closed modules under a card that needs the open ones": (
        WORKING | BOTH | {"module": CLOSED_MODULE.replace("550.163.01", "580.65.06")},
        "driver.open-needed",
        "RTX 5090",
        "nvidia-open",
    ),
    "the kernel says that open modules are needed": (
        {"lspci": LSPCI_5090, "kernel": OPEN_NEEDED, "modinfo": "575.57.08\nNVIDIA"},
        "driver.open-needed",
        "driver 575.57.08 came with the closed ones",
        "nvidia-open",
    ),
    "a card that fell off the bus, by the kernel's log": (
        WORKING | BOTH | {"kernel": FALLEN},
        "gpu.fallen-off",
        "RTX 5090 (02:00.0): it has fallen",
        "power",
    ),
    "a card that fell off the bus, by what the bus reads": (
        WORKING | {"pci": "0000:02:00.0 0x2b85 nvidia- ffff"},
        "gpu.fallen-off",
        "10de:2b85 (02:00.0)",
        "power",
    ),
    "a card that lspci shows as rev ff": (
        WORKING | {"lspci": LSPCI_4090 + "\n" + LSPCI_5090.replace("rev a1", "rev ff")},
        "gpu.fallen-off",
        "RTX 5090",
        "power",
    ),
    "a card held for a virtual machine": (
        WORKING | {"lspci": f"{LSPCI_4090}\n{LSPCI_5090.replace('nvidia', 'vfio-pci')}"},
        "gpu.passthrough",
        "vfio-pci holds it",
        "virtual machine",
    ),
    "MIG is on": (
        WORKING | {"cards": CARD_4090.replace("[N/A]", "Enabled")},
        "gpu.mig",
        "split by MIG",
        "nvidia-smi -i 0 -mig 0",
    ),
    "driver upgraded under the running module": (
        WORKING | {"gpus": MISMATCH, "cards": "", "smi": ""},
        "driver.mismatch",
        "upgraded under the running kernel module",
        "reboot",
    ),
    "secure boot refuses the module": (
        BARE_CARD
        | {
            "modinfo": "580.65.06\nDual MIT/GPL",
            "gpus": NO_DRIVER_TALK,
            "box": BOX + "secure_boot=   1",
        },
        "driver.secure-boot",
        "isn't signed",
        "mokutil --import",
    ),
    "installed, not loaded, without secure boot": (
        BARE_CARD | {"modinfo": "580.65.06\nDual MIT/GPL", "gpus": NO_DRIVER_TALK},
        "driver.not-loaded",
        "installed and not loaded",
        "reboot",
    ),
    "a driver that runs no CUDA 11.8": (
        WORKING | {"module": CLOSED_MODULE.replace("550.163.01", "390.157")},
        "driver.too-old",
        "runs no CUDA from 11.8 on",
        "580 or newer",
    ),
    "no sudo": (WORKING | {"access": "dev\nnone\ndev"}, "sudo.none", "dev may not", "root"),
    "a full disk": (
        WORKING | {"space_opt": FULL, "space_var": FULL},
        "disk.full",
        "2.8 GiB free for /opt and /var/lib",
        "make room",
    ),
    "no systemd": (WORKING | {"systemd": ""}, "system.systemd", "no systemd", "247"),
    "a distribution without apt or dnf": (
        WORKING | {"os": 'ID=arch\nPRETTY_NAME="Arch Linux"'},
        "system.distribution",
        "Arch Linux",
        "Debian 12 or 13",
    ),
}


@pytest.mark.parametrize("condition", BLOCKED)
def test_a_box_is_blocked_with_its_reason_and_the_remedy(condition: str) -> None:
    sections, name, message, remedy = BLOCKED[condition]
    probe = box(**sections)
    finding = found(probe, name)
    assert finding.severity == "blocker"
    assert message in finding.message
    assert remedy in finding.remedy
    assert not report(probe).ok


WARNED = {
    "two unlike cards": (
        WORKING | BOTH | {"gpus": f"{ROW_4090}\n{ROW_5090}", "cards": f"{CARD_4090}\n{CARD_5090}"},
        "gpu.unlike",
        "GeForce RTX 4090 24 GiB and GeForce RTX 5090 32 GiB",
        "--tensor-split",
    ),
    "a distribution that nobody has tested": (
        WORKING
        | {"os": 'ID="rocky"\nID_LIKE="rhel centos"\nVERSION_ID="9.5"\nPRETTY_NAME="Rocky 9.5"'},
        "system.version",
        "Rocky 9.5 is none of those tested: Debian 12 and 13 on real hosts, Ubuntu",
        "",
    ),
    "an older driver": (
        WORKING | {"module": OPEN_MODULE.replace("580.65.06", "570.172.08"), "modinfo": ""},
        "driver.old",
        "570.172.08 runs CUDA up to 12.8",
        'cuda.version to "12.8"',
    ),
    "a driver that waits for a reboot": (
        WORKING | {"modinfo": "580.95.05\nDual MIT/GPL"},
        "driver.upgraded",
        "580.65.06 runs, 580.95.05 is installed",
        "reboot",
    ),
    "a kernel that waits for a reboot": (
        WORKING | {"box": BOX + "reboot=linux-image-amd64\nreboot_asked=yes"},
        "system.reboot",
        "linux-image-amd64",
        "reboot",
    ),
    "sudo with a password": (
        WORKING | {"access": "ops\nnone\nops sudo"},
        "sudo.password",
        "wants ops's password",
        "ssh.sudo_password",
    ),
    "a card that others use": (
        WORKING | {"gpus": ROW_4090.replace("24110", "4110")},
        "gpu.busy",
        "20.0 GiB of GPU 0",
        "nvidia-smi",
    ),
    "Ollama runs": (
        WORKING
        | {"programs": "ollama|/usr/bin/ollama|ollama version is 0.9.2|ollama.service|active"},
        "software.running",
        "ollama runs here",
        "systemctl disable --now ollama.service",
    ),
    "models on a rotating disk": (
        WORKING
        | {
            "space_var": "/dev/sda1 ext4 999999997952 0 900000000000 0% /srv\n"
            'NAME="sda1" ROTA="1" TRAN="sata"'
        },
        "disk.slow",
        "2 minutes",
        "SSD",
    ),
    "no card at all": ({}, "gpu.none", "on the CPU", "provider: none"),
    "a Pascal card": (
        WORKING | {"gpus": ROW_4090.replace("8.9", "6.1")},
        "gpu.old",
        "compute capability 6.1",
        "12.9",
    ),
}


@pytest.mark.parametrize("condition", WARNED)
def test_a_box_is_ready_with_a_warning(condition: str) -> None:
    sections, name, message, remedy = WARNED[condition]
    probe = box(**sections)
    finding = found(probe, name)
    assert finding.severity == "warning"
    assert message in finding.message
    assert remedy in finding.remedy
    assert report(probe).ok


@pytest.mark.parametrize(("base", "title"), [("debian12-lab", "12"), ("debian13-lab", "13")])
def test_both_debians_are_welcome(base: str, title: str) -> None:
    probe = box(base, **WORKING)
    assert title in probe.machine.title
    assert report(probe).ok


def test_debian_13_needs_a_driver_for_cuda_13() -> None:
    sections = WORKING | {"module": OPEN_MODULE.replace("580.65.06", "570.172.08"), "modinfo": ""}
    assert report(box("debian12-lab", **sections)).ok
    finding = found(box("debian13-lab", **sections), "driver.too-old")
    assert (finding.severity, "glibc 2.41" in finding.message) == ("blocker", True)


@pytest.mark.parametrize(
    ("offset", "severity", "words"),
    [
        (-7200.0, "blocker", "2 hours behind"),
        (86400.0 * 400, "blocker", "400 days ahead"),
        (30.0, "warning", "30 s ahead"),
    ],
)
def test_a_wrong_clock(offset: float, severity: str, words: str) -> None:
    probe = box(**WORKING)
    probe = replace(probe, clock=replace(probe.clock, offset=offset))
    findings = [f for f in report(probe).findings if f.id.startswith("clock.")]
    assert [f.severity for f in findings] == [severity]
    assert words in findings[0].message


def test_ollamas_models_could_be_adopted() -> None:
    probe = box(**WORKING, ollama=OLLAMA_MANIFEST)
    assert [(model.name, model.size) for model in probe.models] == [
        ("qwen2.5-coder:32b", 19851335840)
    ]
    assert probe.models[0].path.endswith("/blobs/sha256-" + "ac" * 32)
    assert "1 model file of 18.5 GiB (ollama)" in found(probe, "models.found").message


@pytest.mark.parametrize(("declared", "severity"), [(True, "blocker"), (False, "warning")])
def test_a_port_that_is_taken(declared: bool, severity: str) -> None:
    probe = box(**WORKING, listeners="22 sshd[36] ssh.service\n8888 python3[911] jupyter.service")
    expected = Expectations({8888: "coder"}, declared, "gpu-01")
    findings = {f.id: f for f in report(probe, expected=expected).findings}
    assert findings["port.taken"].severity == severity
    assert "taken by jupyter.service" in findings["port.taken"].message


def test_a_box_that_is_onboarded_already_holds_its_own_port() -> None:
    probe = box(
        **WORKING,
        listeners="8888 llama-server[911] llama-server@coder.service",
        onboarded="server llama-server@coder.service\nbuild b8146-3f2a",
    )
    expected = Expectations({8888: "coder"}, True, "gpu-01")
    known = report(probe, expected=expected)
    assert known.ok
    assert [(f.id, f.message) for f in known.findings if f.id != "clock.unsynchronized"] == [
        ("fleet.known", "it is gpu-01 in the fleet, and serves coder")
    ]
    assert found(probe, "fleet.foreign").severity == "warning"


def test_a_hub_that_is_not_reached_is_a_warning_and_a_slow_one_a_note() -> None:
    silent = replace(box(**WORKING), hub=HubAnswer("https://hub.example.org", error="timed out"))
    assert found(silent, "hub.unreachable").severity == "warning"
    other = HubAnswer("https://hub.example.org", True, "it answered 404")
    assert found(replace(silent, hub=other), "hub.unmeasured").severity == "info"
    slow = HubAnswer("https://hub.example.org", True, bytes_per_second=1_000_000)
    assert "4.9 h" in found(replace(silent, hub=slow), "hub.slow").message


UNREACHED = {
    "wrong port": (Contact(error="connection refused"), "ssh.unreachable", "does it listen on"),
    "nobody there": (
        Contact(error="no answer within 10 s"),
        "ssh.unreachable",
        "ssh ops@10.0.0.17",
    ),
    "no such name": (
        Contact(error="the name does not resolve (Name or service not known)"),
        "ssh.unreachable",
        "an alias that ssh knows".removeprefix("an "),
    ),
    "host key unknown": (
        Contact(replace(KNOWN, state="unknown"), ("publickey",)),
        "ssh.host-key-unknown",
        f"--fingerprint {KNOWN.fingerprint}",
    ),
    "host key changed": (
        Contact(replace(KNOWN, state="changed"), ("publickey",)),
        "ssh.host-key-changed",
        "ssh-keygen -R 10.0.0.17",
    ),
    "another key than the one named": (
        Contact(replace(KNOWN, state="refused"), ("publickey",)),
        "ssh.fingerprint-differs",
        "is the address right",
    ),
    "passwords only": (
        Contact(KNOWN, ("password", "keyboard-interactive"), error="Authentication error"),
        "ssh.password-only",
        "--password prompt",
    ),
    "neither key nor password": (
        Contact(KNOWN, ("publickey", "password"), error="neither key nor password: refused"),
        "ssh.password-refused",
        "sshd's log",
    ),
    "our key isn't there": (
        Contact(KNOWN, ("publickey", "password"), error="Authentication error"),
        "ssh.key-refused",
        "--install-key",
    ),
    "our key isn't there, and no passwords": (
        Contact(KNOWN, ("publickey",), error="Authentication error"),
        "ssh.key-refused",
        "~ops/.ssh/authorized_keys",
    ),
}


@pytest.mark.parametrize("condition", UNREACHED)
def test_a_box_that_is_not_reached_says_why(condition: str) -> None:
    contact, name, remedy = UNREACHED[condition]
    unreached = report(None, contact)
    assert [finding.id for finding in unreached.findings] == [name]
    assert remedy in unreached.findings[0].remedy
    assert not unreached.ok


def test_root_that_is_not_let_in() -> None:
    root = replace(TARGET, user="root")
    contact = Contact(KNOWN, ("publickey", "password"), error="Authentication error")
    (finding,) = diagnose(root, contact, None)
    assert finding.id == "ssh.root-refused"
    assert "USER@HOST" in finding.remedy
    assert "PermitRootLogin" in finding.remedy


def test_a_login_by_password_asks_for_a_key() -> None:
    contact = Contact(KNOWN, ("publickey", "password"), "password")
    assert found(box(**WORKING), "ssh.password-login", contact).severity == "warning"


def test_blockers_come_first() -> None:
    probe = box(**BARE_CARD, access="dev\nnone\ndev", ollama=OLLAMA_MANIFEST)
    severities = [finding.severity for finding in report(probe).findings]
    assert severities == sorted(severities, key=["blocker", "warning", "info"].index)
    assert severities.count("blocker") == 2

"""What kernels and nvidia-smi really wrote, and what it is taken for."""

from __future__ import annotations

import pytest
import recorded_kernel as recorded
from onboard_support import (
    CARD_4090,
    CLOSED_MODULE,
    LSPCI_4090,
    OPEN_MODULE,
    WORKING,
    box,
    report,
)
from recorded_kernel import Recorded

from facts.onboarding_parse import kernel_records
from llamaherd.onboard.report import Finding

LOADED = {"module": OPEN_MODULE, "modinfo": "580.65.06\nDual MIT/GPL"}
CLOSED = {
    "module": CLOSED_MODULE.replace("550.163.01", "580.105.08"),
    "modinfo": "580.105.08\nNVIDIA",
}
NOT_LOADED = {"modinfo": "595.58.03\nDual MIT/GPL"}

CASES: dict[str, tuple[Recorded, dict[str, str], str, str, str]] = {
    "Xid 79": (recorded.XID_79, LOADED, "gpu.fallen-off", "fallen off", "power the box"),
    "fallen off before it was probed": (
        recorded.FALLEN_AT_BOOT,
        LOADED,
        "gpu.fallen-off",
        "10de:26b5 (b3:00.0)",
        "power the box",
    ),
    "Blackwell under closed modules": (
        recorded.OPEN_NEEDED_TIMED,
        CLOSED,
        "driver.open-needed",
        "driver 580.105.08 came with the closed ones",
        "nvidia-open",
    ),
    "the same from a log without times": (
        recorded.OPEN_NEEDED,
        CLOSED,
        "driver.open-needed",
        "driver 580.105.08",
        "nvidia-open",
    ),
    "a V100 under open modules": (
        recorded.NO_GSP,
        LOADED,
        "driver.closed-needed",
        "no GSP",
        "branch 580 of NVIDIA's driver, the last one for this card, with the closed modules",
    ),
    "a driver that doesn't know the card": (
        recorded.TOO_NEW_FOR_DRIVER,
        {"modinfo": "520.56.06\nDual MIT/GPL"},
        "driver.wrong-branch",
        "driver 520.56.06 doesn't support it",
        "580 or newer",
    ),
    "a driver that has dropped the card": (
        recorded.LEGACY,
        NOT_LOADED,
        "driver.wrong-branch",
        "driver 595.58.03 has dropped it; branch 580 is its last",
        "install branch 580",
    ),
    "a card that doesn't start": (
        recorded.NOT_STARTED,
        LOADED,
        "gpu.not-started",
        "RmInitAdapter failed! (0x62:0x65:1792)",
        "off and on",
    ),
    "nova holds it": (
        recorded.NOVA,
        NOT_LOADED,
        "gpu.nouveau",
        "NovaCore is bound to it",
        "blacklist nova_core",
    ),
    "lockdown refuses the module": (
        recorded.UNSIGNED,
        NOT_LOADED,
        "driver.secure-boot",
        "isn't signed",
        "mokutil --import",
    ),
    "the kernel wants signatures": (
        recorded.REJECTED,
        NOT_LOADED,
        "driver.secure-boot",
        "isn't signed",
        "mokutil --import",
    ),
    "a tainted kernel has refused nothing": (
        recorded.TAINTED,
        NOT_LOADED,
        "driver.not-loaded",
        "installed and not loaded",
        "reboot",
    ),
    "libraries of another version": (
        recorded.MISMATCH,
        LOADED,
        "driver.mismatch",
        "upgraded under the running",
        "reboot",
    ),
    "a card that nvidia-smi loses": (recorded.LOST, LOADED, "gpu.fallen-off", "(0b:00.0)", "power"),
    "a card that it says is lost": (
        recorded.LOST_TOLD,
        LOADED,
        "gpu.fallen-off",
        "lost 10de:1e04 (02:00.0)",
        "power",
    ),
    "a lost card, in newer words": (
        recorded.LOST_WITHOUT_A_SPACE,
        LOADED,
        "gpu.fallen-off",
        "(65:00.0)",
        "power",
    ),
}


def blockers(**sections: str) -> list[Finding]:
    return [f for f in report(box(**sections)).findings if f.severity == "blocker"]


def dressed(case: Recorded, sections: dict[str, str]) -> dict[str, str]:
    """The sections of a box with this card alone."""
    pci = f"{case.address} 0x{case.device} - de10"
    return {"pci": pci, "kernel": case.kernel, "gpus": case.error} | sections


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_text_is_taken_for_what_it_says(name: str) -> None:
    case, sections, finding, message, remedy = CASES[name]
    (found,) = blockers(**dressed(case, sections))
    assert found.id == finding
    assert message in found.message
    assert remedy in found.remedy
    assert case.source


def test_one_cards_trouble_is_not_anothers() -> None:
    """A card that fell off, one without a reason, and one that works."""
    pci = "\n".join(f"0000:{slot}:00.0 0x2684 nvidia- de10" for slot in ("01", "44", "45"))
    found = blockers(**WORKING | {"lspci": "", "pci": pci, "kernel": recorded.XID_79.kernel})
    assert [(f.id, f.message.partition(":00.0)")[0][-3:]) for f in found] == [
        ("gpu.fallen-off", "(44"),
        ("gpu.hidden", "(45"),
    ]


def test_a_lost_card_is_not_held_against_those_that_nvidia_smi_then_hides() -> None:
    pci = "0000:0a:00.0 0x1e04 nvidia- de10\n0000:0b:00.0 0x1e04 nvidia- de10"
    (found,) = blockers(**LOADED, pci=pci, gpus=recorded.LOST.error)
    assert found.id == "gpu.fallen-off"
    assert "(0a:00.0)" not in found.message
    assert "shows no other card" in found.message


def test_a_card_that_is_back_is_not_called_fallen() -> None:
    assert blockers(**WORKING, kernel=recorded.XID_79.kernel.replace("44", "01")) == []


def test_mig_as_it_was_recorded() -> None:
    uuid, _, _, used = CARD_4090.split(", ")
    (found,) = blockers(**WORKING | {"cards": f"{uuid}, {recorded.MIG_ROW}, {used}"})
    assert found.id == "gpu.mig"
    off = recorded.MIG_ROW.replace("Enabled", "Disabled")
    assert blockers(**WORKING | {"cards": f"{uuid}, {off}, {used}"}) == []


def test_nouveau_as_lspci_shows_it_and_the_driver_that_suits_the_card() -> None:
    (found,) = blockers(lspci=recorded.NOUVEAU_LSPCI.format(address="0000:01:00.0"))
    assert found.id == "gpu.nouveau"
    assert "branch 580" in found.remedy, "a Maxwell card has no open modules"


def test_a_card_older_than_cuda_12_is_told_so() -> None:
    tesla = LSPCI_4090.replace("AD102 [GeForce RTX 4090] [10de:2684]", "GK210 [K80] [10de:102d]")
    (found,) = blockers(lspci=tesla.replace("\tKernel driver in use: nvidia\n", ""))
    assert found.id == "gpu.too-old"


@pytest.mark.parametrize("case", [recorded.FALLEN_AT_BOOT, recorded.NO_GSP, recorded.LEGACY])
def test_a_records_lines_are_put_together(case: Recorded) -> None:
    first = kernel_records(case.kernel.splitlines())[0]
    assert "NVRM:" not in first.partition("NVRM:")[2]
    assert "\n" not in first


def test_lines_without_times_stay_apart() -> None:
    assert len(kernel_records(recorded.OPEN_NEEDED.kernel.splitlines())) == 4
    assert kernel_records([]) == []


def test_a_card_that_works_and_has_had_trouble_is_warned_of() -> None:
    log = recorded.XID_79.kernel.replace("44", "01")
    (found,) = [f for f in report(box(**WORKING, kernel=log)).findings if f.id == "gpu.xid"]
    assert (found.severity, "Xid 79 of GPU 0" in found.message) == ("warning", True)
    # An application's own fault says nothing about the card.
    faults = report(box(**WORKING, kernel=log.replace(" 79,", " 31,"))).findings
    assert "gpu.xid" not in [f.id for f in faults]

"""Toolkit and driver settings, from the fleet file to what is locked and what hosts are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cuda_settings import REPOSITORY

from inventories.fleet import Fleet, fleet_of
from inventories.lock import (
    CudaPin,
    DriverPin,
    Lock,
    check_lock,
    dump_lock,
    load_lock,
    requests_of,
)
from inventories.resolve import UnlockedError, resolve_host
from inventories.settings import CudaSettings, DriverSettings, HostSettings
from schemas.document import parse_document
from schemas.problems import ProblemsError


def fleet(host: str) -> Fleet:
    text = f"version: 1\nhosts:\n  a: {{{host}}}\n"
    return fleet_of(parse_document(text.encode(), "f.yaml"), Path("f.yaml"))


def asked(host: str) -> dict[str, dict[str, Any]]:
    """What has to be pinned for such a host, by kind and name."""
    return {request.label: dict(request.body) for request in requests_of(fleet(host))}


def told(host: str) -> HostSettings:
    """What the host is told, with pins that answer whatever it asks."""
    whole = fleet(host)
    cuda, driver = {}, {}
    for request in requests_of(whole):
        if request.kind == "cuda":
            cuda[request.name] = CudaPin(request.body, "13.0.88-1", repositories=(REPOSITORY,))
        else:
            driver[request.name] = DriverPin(request.body, "580.95.05", (REPOSITORY,))
    lock = Lock(cuda=cuda, driver=driver)
    assert load_lock(dump_lock(lock), "f.lock.yaml") == lock
    assert check_lock(whole, lock) == []
    return resolve_host(whole, lock, "a")


def test_a_driver_is_observed_alone_unless_it_is_managed() -> None:
    for text in ("", "driver: {}", "driver: {branch: 580}", "driver: {manage: false}"):
        assert asked(text) == {}
        assert told(text).driver is None


def test_a_managed_driver_is_locked_and_told() -> None:
    text = 'driver: {manage: true, reboot: allowed}, cuda: {provider: wheels, version: "13.0"'
    mirror = "https://mirror.example.com/cuda"
    found = asked(f"{text}, repository: {{url: {mirror}, distributions: [debian12]}}}}")
    assert found["driver 580-open"] == {
        "branch": 580,
        "modules": "open",
        "url": mirror,
        "distributions": ["debian12"],
    }
    assert told("driver: {manage: true, reboot: allowed}").driver == DriverSettings(
        580, "580.95.05", (REPOSITORY,), "open", "allowed"
    )
    old = told("driver: {manage: true, branch: 570, modules: proprietary}").driver
    assert old is not None
    assert (old.branch, old.modules, old.reboot) == (570, "proprietary", "never")


def test_a_driver_without_its_pin_stops_before_any_host() -> None:
    whole = fleet("driver: {manage: true}")
    (problem,) = check_lock(whole, Lock())
    assert "the lock's pin of driver 580-open is missing; run: llamaherd lock" in problem.message
    with pytest.raises(UnlockedError, match="driver 580-open"):
        resolve_host(whole, Lock(), "a")


def test_the_full_profile_is_another_pin_and_the_minimal_one_that_of_before() -> None:
    minimal = asked('cuda: {version: "13.0"}')["cuda nvidia-repo-13.0"]
    assert minimal == asked('cuda: {version: "13.0", profile: minimal}')["cuda nvidia-repo-13.0"]
    assert "profile" not in minimal
    full = asked('cuda: {version: "13.0", profile: full}')["cuda nvidia-repo-13.0"]
    assert full == {**minimal, "profile": "full"}


def test_the_distributions_toolkit_needs_no_pin() -> None:
    assert asked("cuda: {provider: distribution}") == {}
    assert told("cuda: {provider: distribution}").cuda == CudaSettings("distribution")
    wanted = told('cuda: {provider: distribution, version: "11.8"}').cuda
    assert wanted is not None
    assert (wanted.version, wanted.root) == ("11.8", "/usr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "driver: {manage: true, branch: 620, modules: proprietary}",
            "driver 620 has open kernel modules only: set this to open",
        ),
        ("driver: {manage: true, branch: 12}", "12 is less than 450"),
        ("driver: {manage: true, modules: closed}", "open or proprietary"),
    ],
)
def test_what_cannot_be_is_said_before_a_host_is_asked(text: str, message: str) -> None:
    with pytest.raises(ProblemsError) as refused:
        fleet(text)
    assert message in "\n".join(problem.message for problem in refused.value.problems)

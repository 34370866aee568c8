"""Whether what is declared exists for a host's distribution and architecture. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from deploys.common.changes import Change, refusal
from deploys.common.operations import HostError
from deploys.cuda import distribution
from deploys.cuda.repository import choose, combined
from deploys.cuda.toolkit import existing_problem
from deploys.cuda.wheels import architecture_problem
from deploys.opencode.install import locked_artifact
from deploys.packages import lacking, unsupported
from facts.system import SystemState
from inventories.settings import CudaSettings, DriverSettings, HostSettings


def platform_findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """Why the host's distribution can't take what is declared, each with its remedy."""
    text = unsupported(facts)
    if text:
        return [refusal(text, facts.platform or "distribution")]
    return [*lacking(settings, facts), *_opencode(settings, facts)]


def _opencode(settings: HostSettings, facts: SystemState) -> Iterator[Change]:
    if settings.opencode is None:
        return
    try:
        locked_artifact(settings.opencode, facts.architecture)
    except HostError as error:
        yield replace(refusal(str(error), "OpenCode"), component="opencode")


def toolkit_findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """Toolkits and drivers that the lock file has for other hosts only, or that aren't there."""
    found = [
        replace(refusal(text, "CUDA toolkit"), component="cuda")
        for text in dict.fromkeys(_cuda(settings, facts))
    ]
    driver = settings.driver
    if driver is not None and driver.repositories:
        text = _repository_problem([driver], facts)
        found += [replace(refusal(text, "NVIDIA driver"), component="driver")] if text else []
    return found


def _cuda(settings: HostSettings, facts: SystemState) -> Iterator[str]:
    packaged = [one for one in settings.toolkits if one.provider == "nvidia-repo"]
    texts = [_repository_problem([one for one in packaged if one.repositories], facts)]
    texts += [_toolkit_problem(toolkit, facts) for toolkit in settings.toolkits]
    yield from filter(None, texts)


def _repository_problem(
    settings: Sequence[CudaSettings | DriverSettings], facts: SystemState
) -> str:
    """Why NVIDIA's locked repositories aren't for this host; empty where they are."""
    try:
        chosen = [choose(one, facts.platform, facts.architecture) for one in settings]
        if chosen:
            combined(chosen)
    except HostError as error:
        return str(error)
    return ""


def _toolkit_problem(toolkit: CudaSettings, facts: SystemState) -> str:
    root = toolkit.root or ""
    version = facts.toolkits.get(root)
    if toolkit.provider == "existing" and version is not None:
        return existing_problem(root, f"file {root}/bin/nvcc" not in facts.missing, version)
    if toolkit.provider == "distribution" and version:
        return distribution.version_problem(version, toolkit.version)
    if toolkit.provider == "distribution":
        return distribution.unavailable(facts.distribution, facts.like)
    if toolkit.provider == "wheels" and f"{root}/manifest.json" not in facts.there:
        return architecture_problem(toolkit, facts.architecture)
    return ""

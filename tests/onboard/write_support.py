"""Reports of boxes, and fleet files whose names resolve without a network."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from facts.gpu import Gpu
from facts.onboarding_values import Access, Driver, Machine, Probe
from llamaherd.onboard.report import Contact, Report, Serves, Target

HEAD = """\
# The office. Keep the order.
version: 1

models:
  tiny: {{path: tiny.gguf, sha256: {model}}}   # a stand-in

defaults:
  ssh: {{user: ops}}
  cuda: {{provider: none}}
  llama_cpp:
    archive: {{path: source.tar.gz, sha256: {source}}}
    commit: 0c1e570
    build_number: 10900

"""
GROUPS = """\
groups:
  chat:
    servers:
      coder: {model: tiny, port: 8888, context: 8192}

"""
HOSTS = """\
hosts:
  old-01: {ssh: {hostname: 10.0.0.11}, groups: [chat]}
  # old-02 went home
"""


def make_fleet(folder: Path, body: str = GROUPS + HOSTS, name: str = "fleet.yaml") -> Path:
    """A fleet file with a model and a source that lie beside it."""
    model, source = folder / "tiny.gguf", folder / "source.tar.gz"
    model.write_bytes(b"GGUF" + bytes(60))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("CMakeLists.txt"))
    source.write_bytes(packed.getvalue())
    digests = {
        "model": hashlib.sha256(model.read_bytes()).hexdigest(),
        "source": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    path = folder / name
    path.write_text(HEAD.format(**digests) + body)
    return path


def gpu(index: int, capability: str = "8.9", memory: int = 24564) -> Gpu:
    """A GPU as the driver tells of it."""
    return Gpu(
        index=index,
        name="NVIDIA GeForce RTX 4090",
        uuid=f"GPU-{index:08d}",
        memory_total=memory,
        memory_free=memory,
        compute_capability=capability,
        driver="580.65.06",
    )


def report_of(
    address: str = "10.0.0.17",
    *gpus: Gpu,
    user: str = "ops",
    hostname: str = "new-01",
    serves: tuple[Serves, ...] = (),
    login: Any = "key",
    sudo: Any = "passwordless",
    **target: Any,
) -> Report:
    """What a look at a box would tell."""
    probe = Probe(
        machine=Machine(hostname=hostname),
        gpus=gpus,
        driver=Driver(loaded="580.65.06", cuda="13.0") if gpus else Driver(),
        access=Access(user=user, sudo=sudo),
    )
    where = Target(given=f"{user}@{address}", hostname=address, user=user, **target)
    return Report(where, Contact(login=login), probe, serves=serves)


def fits(model: str, context: int, **more: Any) -> Serves:
    """A model that fits with so much context."""
    sizes = {"weights": 10**9, "cache": 10**8, "compute": 10**8}
    return Serves(**{"model": model, "quant": "", "context": context, "kv": "f16", **sizes, **more})

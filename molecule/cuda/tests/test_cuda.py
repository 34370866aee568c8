"""What the build of the CUDA scenario is, read by other means than the deploys'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
TOOLKIT = "/opt/cuda/13.0.2"


@pytest.fixture(scope="module")
def builder() -> Host:
    return testinfra.get_host(
        "ansible://builder", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"]
    )


@pytest.fixture(scope="module")
def build(builder: Host) -> str:
    """The folder of the one build."""
    (name,) = builder.check_output("ls /opt/llama.cpp").split()
    return f"/opt/llama.cpp/{name}"


@pytest.fixture(scope="module")
def manifest(builder: Host, build: str) -> Any:
    return json.loads(builder.file(f"{build}/manifest.json").content_string)


def test_the_manifest_says_what_it_was_built_with(manifest: Any) -> None:
    definitions = manifest["definitions"]
    assert definitions["GGML_CUDA"] == "ON"
    assert definitions["CMAKE_CUDA_ARCHITECTURES"] == "89-real"
    assert definitions["CMAKE_CUDA_COMPILER"] == f"{TOOLKIT}/bin/nvcc"
    assert manifest["cuda"]["provider"] == "wheels"
    assert len(manifest["cuda"]["pins"]) >= 5
    assert list(manifest["binaries"]) == ["llama-server"]


def test_the_binary_is_the_one_that_was_built(builder: Host, build: str, manifest: Any) -> None:
    size, _, digest = manifest["binaries"]["llama-server"].split()
    binary = builder.file(f"{build}/bin/llama-server")
    assert binary.size == int(size)
    assert binary.sha256sum == digest
    # The kernels of the whole backend: a build for CPUs alone is a sixth of it.
    assert binary.size > 50_000_000


def test_the_toolkits_libraries_are_found_without_any_help(builder: Host, build: str) -> None:
    """By the run path in the binary: no ld.so.conf, no LD_LIBRARY_PATH."""
    needed = builder.check_output(f"env -u LD_LIBRARY_PATH ldd {build}/bin/llama-server")
    for library in ("libcudart.so.13", "libcublas.so.13"):
        assert f"{library} => {TOOLKIT}/" in needed
    missing = [line.split()[0] for line in needed.splitlines() if "not found" in line]
    assert missing == ["libcuda.so.1"], "the driver's own library, which only a GPU's host has"


def test_it_wants_nothing_but_the_driver(builder: Host, build: str) -> None:
    answer = builder.run(f"{build}/bin/llama-server --version")
    assert answer.rc != 0
    assert "libcuda.so.1" in answer.stderr


def test_it_says_its_version_where_the_driver_s_stub_stands_in(builder: Host, build: str) -> None:
    """The stub answers no call: it shows that all else of the program loads and starts."""
    builder.check_output(f"ln -sfn {TOOLKIT}/lib64/stubs/libcuda.so /run/libcuda.so.1")
    answer = builder.run(f"LD_LIBRARY_PATH=/run {build}/bin/llama-server --version")
    builder.check_output("rm /run/libcuda.so.1")
    assert "build 1, commit 0c1e570" in answer.stdout + answer.stderr


def test_the_kernels_are_of_the_declared_capability_alone(builder: Host, build: str) -> None:
    found = builder.check_output(
        f"strings -a {build}/bin/llama-server | grep -oE '\\bsm_[0-9]+[af]?\\b' | sort -u"
    )
    assert found.split() == ["sm_89"]


def test_nothing_is_left_of_the_making(builder: Host) -> None:
    assert builder.check_output("ls -A /opt/llama.cpp").count("\n") == 0
    assert builder.check_output("ls -A /opt/cuda") == "13.0.2"
    assert builder.check_output("ls -A /var/lib/llamaherd/uploads || :") == ""


def test_no_difference_is_left() -> None:
    llamaherd = Path(sys.executable).with_name("llamaherd")
    answer = subprocess.run(
        [str(llamaherd), "drift", str(SCENARIO / "fleet.yaml"), "--json"],
        cwd=SCENARIO.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr

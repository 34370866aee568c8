"""The toolkit fact: output in, value out; and its own command, run by a real shell."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from cuda_dummies import NVCC
from hypothesis import given
from hypothesis import strategies as st
from pyinfra.api.exceptions import FactProcessError
from pyinfra_cli.util import json_encode  # type: ignore[import-untyped]

from facts.cuda import CudaState, CudaToolkits, Toolkit, parse_cuda


def ask(**question: object) -> CudaState:
    """Ask this machine."""
    command = CudaToolkits().command(**question)  # type: ignore[arg-type]
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    return CudaToolkits().process(done.stdout.splitlines())


def make_toolkit(root: Path, script: str = NVCC.format(version="13.0.88")) -> None:
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "nvcc").write_text(script, encoding="utf-8")
    (root / "bin" / "nvcc").chmod(0o755)


def test_toolkits_are_found_by_pattern_with_their_version(tmp_path: Path) -> None:
    make_toolkit(tmp_path / "cuda-13.0")
    make_toolkit(tmp_path / "cuda 12.8", NVCC.format(version="12.8.93"))
    (tmp_path / "cuda-empty").mkdir()
    found = ask(roots=(f"{tmp_path}/cuda*",)).toolkits
    assert {Path(root).name: toolkit.version for root, toolkit in found.items()} == {
        "cuda-13.0": "13.0.88",
        "cuda 12.8": "12.8.93",
    }


def test_a_toolkit_that_links_lead_to_is_found_once_under_its_own_name(tmp_path: Path) -> None:
    make_toolkit(tmp_path / "cuda-13.0")
    (tmp_path / "cuda").symlink_to(tmp_path / "alternatives")
    (tmp_path / "alternatives").symlink_to("cuda-13.0")
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "nvcc").symlink_to(tmp_path / "cuda" / "bin" / "nvcc")
    found = ask(roots=(f"{tmp_path}/cuda*", f"{tmp_path}/usr")).toolkits
    assert list(found) == [f"{tmp_path}/cuda-13.0"]
    # Asked for by its name, a link is what is told of.
    assert list(ask(roots=(f"{tmp_path}/cuda",)).toolkits) == [f"{tmp_path}/cuda"]


def test_a_link_to_a_toolkit_elsewhere_is_told_under_the_links_name(tmp_path: Path) -> None:
    make_toolkit(tmp_path / "vendor" / "x")
    (tmp_path / "cuda").symlink_to(tmp_path / "vendor" / "x")
    assert list(ask(roots=(f"{tmp_path}/cuda*",)).toolkits) == [f"{tmp_path}/cuda"]


def test_the_distributions_own_toolkit_is_among_those_that_are_looked_for(tmp_path: Path) -> None:
    make_toolkit(tmp_path / "usr", NVCC.format(version="11.8.89"))
    command = CudaToolkits().command().replace("/usr; do", f"{tmp_path}/usr; do")
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    found = CudaToolkits().process(done.stdout.splitlines()).toolkits
    assert found[f"{tmp_path}/usr"].version == "11.8.89"


def test_a_manifest_is_read_whatever_its_layout(tmp_path: Path) -> None:
    make_toolkit(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"layout": 1, "a": ["b"]}, indent=2))
    assert ask(roots=(str(tmp_path),)).toolkits[str(tmp_path)] == Toolkit(
        str(tmp_path), "13.0.88", {"layout": 1, "a": ["b"]}
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"layout": '])
def test_a_damaged_manifest_counts_as_none(tmp_path: Path, text: str) -> None:
    make_toolkit(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    assert ask(roots=(str(tmp_path),)).toolkits[str(tmp_path)].manifest is None


def test_a_compiler_that_does_not_run_has_no_version(tmp_path: Path) -> None:
    make_toolkit(tmp_path, "#!/bin/sh\nexit 1\n")
    assert ask(roots=(str(tmp_path),)).toolkits[str(tmp_path)].version is None


def test_a_host_without_any_has_nothing(tmp_path: Path) -> None:
    state = ask(
        roots=(f"{tmp_path}/cuda*",),
        packages=("cuda-nvcc-99-9",),
        files=(f"{tmp_path}/missing",),
        repository="https://repository.invalid/debian12/x86_64/",
    )
    assert state == CudaState()


def test_hashes_of_files_are_those_of_their_content(tmp_path: Path) -> None:
    path = tmp_path / "with space"
    path.write_bytes(b"content")
    state = ask(roots=(), files=(str(path), f"{tmp_path}/missing"))
    assert state.files == {str(path): hashlib.sha256(b"content").hexdigest()}


def test_only_packages_that_are_installed_count() -> None:
    state = parse_cuda(
        [
            "@@llamaherd:packages",
            "installed cuda-nvcc-13-0 13.0.88-1",
            "config-files cuda-cccl-13-0 13.0.85-1",
        ]
    )
    assert state.packages == {"cuda-nvcc-13-0": "13.0.88-1"}


def test_output_that_makes_no_sense_fails_this_host() -> None:
    with pytest.raises(FactProcessError, match="CUDA toolkits"):
        parse_cuda(["@@llamaherd:toolkits", "Segmentation fault"])


@given(st.lists(st.text(max_size=40), max_size=4))
def test_whatever_is_printed_gives_a_value_or_fails_this_host(lines: list[str]) -> None:
    marked = [f"@@llamaherd:{name}" for name in ("toolkits", "packages", "files", "sources")]
    try:
        state = parse_cuda([*marked[:1], *lines, *marked[1:2], *lines, *marked[2:3], *lines])
    except FactProcessError:
        return
    assert isinstance(state, CudaState)


def test_pyinfras_command_line_can_print_the_fact() -> None:
    state = CudaState({"/opt/cuda/13.0": Toolkit("/opt/cuda/13.0", "13.0.88")})
    printed = json.loads(json.dumps(state, default=json_encode))
    assert printed["toolkits"]["/opt/cuda/13.0"]["version"] == "13.0.88"

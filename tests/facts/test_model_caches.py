"""The caches of other programs, found by the very functions that hosts run."""

import subprocess
from pathlib import Path

import pytest

from facts.model_caches import MODEL_CACHES, cache_functions, cache_title


def caches(root: Path) -> set[tuple[str, str]]:
    script = cache_functions(str(root)) + "model_caches"
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(found) == len({tuple(pair) for pair in found})
    return {(source, folder.removeprefix(f"{root}/")) for source, folder in found}


def box(root: Path, passwd: str = "", environment: str = "") -> Path:
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text(passwd)
    (root / "etc" / "environment").write_text(environment)
    return root


@pytest.mark.parametrize("cache", MODEL_CACHES, ids=lambda cache: cache.folder)
def test_a_users_cache_is_found(tmp_path: Path, cache: object) -> None:
    home = "home/dev one"
    folder = f"{home}/{cache.folder}"  # type: ignore[attr-defined]
    (box(tmp_path) / folder).mkdir(parents=True)
    assert caches(tmp_path) == {(cache.source, folder)}  # type: ignore[attr-defined]


def test_accounts_of_services_count_wherever_they_are_at_home(tmp_path: Path) -> None:
    box(tmp_path, "ollama:x:998:998::/usr/share/ollama:/bin/false\nnobody:x:9:9::/:/bin/false\n")
    (tmp_path / "usr/share/ollama/.ollama/models").mkdir(parents=True)
    (tmp_path / "root/.cache/llama.cpp").mkdir(parents=True)
    (tmp_path / ".cache/llama.cpp").mkdir(parents=True)  # what "/" as a home would give
    assert caches(tmp_path) == {
        ("ollama", "usr/share/ollama/.ollama/models"),
        ("llama.cpp", "root/.cache/llama.cpp"),
    }


def test_variables_of_the_whole_system_move_caches(tmp_path: Path) -> None:
    variables = 'HF_HOME="/data/hf"\nexport LLAMA_CACHE=/data/llama\nOLLAMA_MODELS=relative\n'
    box(tmp_path, environment=variables)
    for folder in ("data/hf/hub", "data/llama", "relative"):
        (tmp_path / folder).mkdir(parents=True)
    assert caches(tmp_path) == {("hub", "data/hf/hub"), ("llama.cpp", "data/llama")}


def test_a_box_without_any_says_nothing(tmp_path: Path) -> None:
    assert caches(box(tmp_path, "root:x:0:0:root:/root:/bin/bash\n")) == set()


def test_every_source_has_a_title() -> None:
    assert cache_title("ollama") == "Ollama's store"

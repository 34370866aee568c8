"""The program for the controller host: a wheel of the running project that pip really installs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from deploys.drift_timer import program
from deploys.drift_timer.program import (
    MODULES,
    REQUIREMENTS,
    ProgramError,
    build_wheel,
    constraints,
    install_job,
    source_digest,
    source_files,
    wheel_name,
)

ROOT = Path(__file__).resolve().parents[2]
FILES = source_files()


@pytest.fixture(scope="module")
def wheel() -> bytes:
    return build_wheel(FILES, "0.1.0+0123")


def test_the_requirements_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(REQUIREMENTS) == sorted(project["dependencies"])
    assert project["requires-python"] == ">={}.{}".format(*program.PYTHON)
    assert project["scripts"] == {"llamaherd": "llamaherd.cli:main"}


def test_every_file_that_git_has_in_the_packages_goes_along_but_for_documents() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--", *program.PACKAGES, *MODULES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    left = {path for path in listed if (ROOT / path).is_file()} - set(FILES)
    assert {Path(path).suffix for path in left} <= {".md", ".yaml"}
    assert not [path for path in left if path.startswith("inventories/catalogue/")]


def test_the_wheel_has_every_file_that_an_ordinary_install_has(wheel: bytes) -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    data = {
        path.relative_to(ROOT).as_posix()
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert any(path.startswith("inventories/catalogue/") for path in data)
    assert data <= set(zipfile.ZipFile(BytesIO(wheel)).namelist())


def test_a_fleet_that_takes_a_model_from_the_catalogue_is_valid_for_the_wheel(
    wheel: bytes, tmp_path: Path
) -> None:
    site, fleet = tmp_path / "site", tmp_path / "fleet.yaml"
    zipfile.ZipFile(BytesIO(wheel)).extractall(site)
    fleet.write_text(
        "version: 1\n"
        "models: {coder: {catalogue: glm-4.7-flash}}\n"
        "defaults: {ssh: {user: ops}, cuda: {provider: none}, llama_cpp: {ref: b10884}}\n"
        "hosts: {gpu-01: {ssh: {hostname: 10.0.0.11}, servers: {coder: {model: coder,"
        " port: 8888, context: 65536}}}}\n"
    )
    check = (
        "import sys; from pathlib import Path; import inventories.fleet as fleets;"
        "assert fleets.__file__.startswith(sys.argv[1]), fleets.__file__;"
        "print(fleets.load_fleet(Path(sys.argv[2])).hosts.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", check, site, fleet],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_fleet_files_in_a_checkout_do_not_go_along(tmp_path: Path) -> None:
    for package in program.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "inventories/fleet.yaml").write_text("private")
    (tmp_path / "inventories/__pycache__").mkdir()
    (tmp_path / "inventories/__pycache__/x.pyc").write_text("")
    assert set(source_files(tmp_path)) == {f"{p}/__init__.py" for p in program.PACKAGES}


def test_an_incomplete_copy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="run from a whole copy"):
        source_files(tmp_path)


def test_the_digest_follows_contents_and_names() -> None:
    files = {"a.py": b"1", "b.py": b"2"}
    others = [{"a.py": b"1"}, {"a.py": b"1", "b.py": b"3"}, {"a.py": b"1", "c.py": b"2"}]
    digests = {source_digest(found) for found in (files, *others)}
    assert len(digests) == 4
    assert source_digest(dict(files)) in digests


def test_the_same_files_make_the_same_wheel(wheel: bytes) -> None:
    assert build_wheel(dict(FILES), "0.1.0+0123") == wheel


def test_pip_installs_the_wheel_and_it_is_the_same_program(wheel: bytes, tmp_path: Path) -> None:
    path = tmp_path / wheel_name("0.1.0+0123")
    path.write_bytes(wheel)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", target, path], check=True)
    assert source_digest(source_files(target)) == source_digest(FILES)
    assert (target / "bin/llamaherd").is_file()
    names = zipfile.ZipFile(BytesIO(wheel)).namelist()
    assert len(names) == len(set(names))


def test_constraints_pin_every_requirement_to_what_runs_here() -> None:
    pinned = dict(line.split("==") for line in constraints())
    assert {"pyinfra", "pyyaml", "jsonschema", "requests", "packaging"} <= set(pinned)
    assert {"gevent", "paramiko", "urllib3"} <= set(pinned), "and to what those require"
    assert not any("+" in version for version in pinned.values())


def test_the_job_is_a_script_that_a_shell_understands() -> None:
    job = install_job("0123456789abcdef")
    done = subprocess.run(["sh", "-n"], input=job.script.encode(), check=False)
    assert done.returncode == 0
    assert "@" not in job.script.replace("2>@", "")


def test_progress_is_counted_from_pips_own_words() -> None:
    job = install_job("0123456789abcdef")
    assert job.progress is not None
    assert job.progress([]) is None
    amount = job.progress(["3"])
    assert amount is not None
    assert amount.done == 3
    assert job.progress(["100000"]).done == amount.total  # type: ignore[union-attr]


def test_an_ordinary_install_has_every_file_too() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {f"{name}.py" for name in setuptools["py-modules"]} == set(MODULES)
    for path in map(Path, FILES):
        if path.suffix != ".py":
            assert any(
                path.match(f"{package.replace('.', '/')}/{pattern}")
                for package, patterns in setuptools["package-data"].items()
                for pattern in patterns
            ), path

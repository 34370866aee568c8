"""llama.cpp from git and from archives; models by URL and path; OpenCode."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from lock_support import FileServer, git, make_npm_package, request, world

from inventories.lock import ModelPin, OpenCodePin, SourcePin
from inventories.pinning import PinError, resolve


def pin(repository: Path | str, ref: str) -> SourcePin:
    body = {"repository": str(repository), "ref": ref}
    found = resolve(request("llama_cpp", body), world(Path("/")))
    assert isinstance(found, SourcePin)
    return found


@pytest.mark.parametrize(
    ("ref", "commit", "number"),
    [
        ("b3", "b3^{commit}", 3),
        ("b4", "b4^{commit}", 4),  # annotated: the tag is an object of its own
        ("main", "main", 5),
        ("refs/heads/main", "main", 5),
    ],
)
def test_a_ref_is_its_commit_and_build_number(
    repository: Path, ref: str, commit: str, number: int
) -> None:
    found = pin(repository.as_uri(), ref)
    assert (found.commit, found.build_number) == (git(repository, "rev-parse", commit), number)


def test_a_release_tag_states_its_number_itself(repository: Path) -> None:
    git(repository, "tag", "b8146", "main~1")
    assert pin(repository.as_uri(), "b8146").build_number == 8146


def test_a_branch_called_like_a_release_is_counted(repository: Path) -> None:
    git(repository, "branch", "b9000", "main~2")
    assert pin(repository.as_uri(), "b9000").build_number == 3


def test_a_commit_is_counted_whole_or_abbreviated(repository: Path) -> None:
    commit = git(repository, "rev-parse", "main~3")
    assert pin(repository.as_uri(), commit).build_number == 2
    assert pin(repository.as_uri(), commit[:8]).commit == commit


def test_a_commit_that_no_branch_holds_is_fetched(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "a pull request's head")
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "main")
    assert pin(repository.as_uri(), commit).build_number == 6


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("b5", r"has no tag or branch b5"),
        ("mian", "did you mean main"),
        ("f" * 40, "git says"),
        ("--upload-pack=touch", "can't be one"),
    ],
)
def test_a_ref_that_is_not_there_is_said_so(repository: Path, ref: str, message: str) -> None:
    with pytest.raises(PinError, match=message):
        pin(repository.as_uri(), ref)


def test_a_repository_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PinError, match="git says"):
        pin(f"file://{tmp_path}/nowhere", "b1")


def test_a_repository_never_runs_a_command(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o755)
    with pytest.raises(PinError, match="git says: transport 'ext' not allowed"):
        pin(f"ext::{script}", "b1")
    assert not (tmp_path / "ran").exists()


ARCHIVE = b"an archive" * 1000
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


def test_an_archive_at_a_path_is_read_and_keeps_its_path(tmp_path: Path) -> None:
    (tmp_path / "src.tar.gz").write_bytes(ARCHIVE)
    body = {"archive": {"path": "src.tar.gz", "sha256": SHA256}}
    found = resolve(request("llama_cpp", body), world(tmp_path))
    assert isinstance(found, SourcePin)
    assert found.archive is not None
    assert (found.archive.path, found.archive.size) == ("src.tar.gz", len(ARCHIVE))


def test_an_archive_at_a_url_is_read(files: FileServer, tmp_path: Path) -> None:
    (files.root / "src.tar.gz").write_bytes(ARCHIVE)
    body = {"archive": {"url": f"{files.url}/src.tar.gz", "sha256": SHA256}}
    found = resolve(request("llama_cpp", body), world(tmp_path))
    assert isinstance(found, SourcePin)
    assert found.archive is not None
    assert (found.archive.name, found.archive.size) == ("src.tar.gz", len(ARCHIVE))


def test_another_hash_than_the_fleet_says_is_refused_with_both(
    files: FileServer, tmp_path: Path
) -> None:
    (files.root / "src.tar.gz").write_bytes(ARCHIVE)
    body = {"archive": {"url": f"{files.url}/src.tar.gz", "sha256": "0" * 64}}
    with pytest.raises(PinError, match=f"its SHA-256 is {SHA256}, the fleet file says 0000"):
        resolve(request("llama_cpp", body), world(tmp_path))


def test_a_missing_archive_is_named(files: FileServer, tmp_path: Path) -> None:
    body = {"archive": {"path": "absent.tar.gz", "sha256": SHA256}}
    with pytest.raises(PinError, match=r"absent.tar.gz: No such file"):
        resolve(request("llama_cpp", body), world(tmp_path))
    body = {"archive": {"url": f"{files.url}/absent.tar.gz", "sha256": SHA256}}
    with pytest.raises(PinError, match="HTTP 404"):
        resolve(request("llama_cpp", body), world(tmp_path))


def test_a_model_by_url_is_measured_but_not_read(files: FileServer, tmp_path: Path) -> None:
    """The hash is the fleet's: a host checks it, not the controller."""
    (files.root / "m.gguf").write_bytes(b"GGUF" * 10)
    body = {"url": f"{files.url}/m.gguf?download=true", "sha256": SHA256}
    found = resolve(request("models", body), world(tmp_path))
    assert isinstance(found, ModelPin)
    assert (found.files[0].name, found.files[0].size) == ("m.gguf", 40)
    assert (found.files[0].sha256, found.revision) == (SHA256, None)


def test_a_model_at_a_path_is_checked(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(ARCHIVE)
    good = resolve(request("models", {"path": "m.gguf", "sha256": SHA256}), world(tmp_path))
    assert isinstance(good, ModelPin)
    assert good.files[0].size == len(ARCHIVE)
    with pytest.raises(PinError, match="the fleet file says"):
        resolve(request("models", {"path": "m.gguf", "sha256": "1" * 64}), world(tmp_path))


# OpenCode ---------------------------------------------------------------------------------------


def test_a_release_is_pinned_for_each_architecture_that_has_it(
    files: FileServer, tmp_path: Path
) -> None:
    x64 = make_npm_package(files, "opencode-linux-x64", "1.18.33")
    body = {"version": "1.18.33", "registry": files.url}
    found = resolve(request("opencode", body), world(tmp_path))
    assert isinstance(found, OpenCodePin)
    assert set(found.artifacts) == {"x86_64"}
    arm = make_npm_package(files, "opencode-linux-arm64", "1.18.33")
    found = resolve(request("opencode", body), world(tmp_path))
    assert isinstance(found, OpenCodePin)
    digests = {name: artifact.sha256 for name, artifact in found.artifacts.items()}
    assert digests == {
        "x86_64": hashlib.sha256(x64).hexdigest(),
        "aarch64": hashlib.sha256(arm).hexdigest(),
    }


def test_a_tarball_that_is_not_what_the_registry_states_is_refused(
    files: FileServer, tmp_path: Path
) -> None:
    make_npm_package(files, "opencode-linux-x64", "1.18.33", integrity="sha512-" + "A" * 86 + "==")
    body = {"version": "1.18.33", "registry": files.url}
    with pytest.raises(PinError, match="SHA-512 isn't the one that the registry states"):
        resolve(request("opencode", body), world(tmp_path))


def test_a_registry_without_a_strong_hash_is_refused(files: FileServer, tmp_path: Path) -> None:
    make_npm_package(files, "opencode-linux-x64", "1.18.33", integrity="sha1-abc")
    body = {"version": "1.18.33", "registry": files.url}
    with pytest.raises(PinError, match="states no SHA-512"):
        resolve(request("opencode", body), world(tmp_path))


def test_an_unknown_release_is_said_so(files: FileServer, tmp_path: Path) -> None:
    body = {"version": "1.18.0", "registry": files.url}
    with pytest.raises(PinError, match=r"has no OpenCode 1\.18\.0; check opencode.version"):
        resolve(request("opencode", body), world(tmp_path))


def test_the_next_generation_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PinError, match=r"2\.x .npm.s @opencode.cli. is another generation"):
        resolve(request("opencode", {"version": "2.0.1"}), world(tmp_path))


@pytest.mark.parametrize("variable", ["NPM_CONFIG_REGISTRY", "npm_config_registry"])
def test_the_environment_names_the_registry(
    files: FileServer, tmp_path: Path, variable: str
) -> None:
    make_npm_package(files, "opencode-linux-x64", "1.18.33")
    there = world(tmp_path, **{variable: files.url + "/"})
    found = resolve(request("opencode", {"version": "1.18.33"}), there)
    assert isinstance(found, OpenCodePin)
    there = world(tmp_path, **{variable: files.url.replace("://", "://eva:hunter2@")})
    with pytest.raises(
        PinError, match=r"the npm registry is .* with a user or password"
    ) as refused:
        resolve(request("opencode", {"version": "1.18.33"}), there)
    assert "hunter2" not in str(refused.value)


def test_npm_names_the_registry_when_nothing_else_does(files: FileServer, tmp_path: Path) -> None:
    make_npm_package(files, "opencode-linux-x64", "1.18.33")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\necho {files.url}/\n")
    npm.chmod(0o755)
    there = world(tmp_path, PATH=str(npm.parent))
    assert isinstance(resolve(request("opencode", {"version": "1.18.33"}), there), OpenCodePin)


def test_without_any_registry_the_setting_is_named(tmp_path: Path) -> None:
    there = world(tmp_path, PATH=str(tmp_path))
    with pytest.raises(PinError, match=r"set opencode\.registry"):
        resolve(request("opencode", {"version": "1.18.33"}), there)

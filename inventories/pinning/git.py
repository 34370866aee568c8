"""Pins a llama.cpp ref to a commit and a build number.

``git ls-remote`` says the commit; annotated tags are peeled. llama.cpp's build number is the
number of commits up to it (cmake/build-info.cmake), and its release tags ``bNNNN`` carry it, so for
those nothing is cloned. For any other ref a treeless bare clone (commits only, no files) counts.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from inventories.lock import SourcePin
from inventories.pinning.web import PinError, World, shown
from schemas.validate import did_you_mean

CLONE_TIMEOUT = 900
"""Seconds that a clone of llama.cpp's commits may take on a slow line."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ABBREVIATED = re.compile(r"[0-9a-f]{7,39}")
_RELEASE = re.compile(r"b([0-9]+)")


def pin_source(body: Mapping[str, Any], world: World) -> SourcePin:
    """The commit that a ref is now, and its build number."""
    repository, ref = body["repository"], str(body["ref"])
    for name, value in (("repository", repository), ("ref", ref)):
        if value.startswith("-") or any(ord(c) < 33 or ord(c) == 127 for c in value):
            raise PinError(f"llama_cpp.{name} {value!r} can't be one; correct it")
    world.tick(f"asking {shown(repository)} for {ref}")
    refs = _ls_remote(repository, world)
    commit = _lookup(refs, ref)
    release = _RELEASE.fullmatch(ref)
    if commit is not None and release is not None and f"refs/tags/{ref}" in refs:
        return SourcePin(request=body, commit=commit, build_number=int(release[1]))
    if commit is None and not (_COMMIT.fullmatch(ref) or _ABBREVIATED.fullmatch(ref)):
        names = [name.split("/", 2)[2] for name in refs if name.count("/") >= 2]
        raise PinError(f"{shown(repository)}: has no tag or branch {ref}{did_you_mean(ref, names)}")
    world.tick(f"counting the commits of {shown(repository)} up to {ref}")
    commit, number = _count(repository, commit or ref, world)
    return SourcePin(request=body, commit=commit, build_number=number)


def _ls_remote(repository: str, world: World) -> dict[str, str]:
    """Refs of a repository and their commits; annotated tags as ``NAME^{}`` as well."""
    output = _git(["ls-remote", "--", repository], repository, world, timeout=120)
    pairs = (line.split("\t", 1) for line in output.splitlines() if "\t" in line)
    return {name: commit for commit, name in pairs}


def _lookup(refs: Mapping[str, str], ref: str) -> str | None:
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref):
        if name in refs:
            return refs[name]
    return None


def _count(repository: str, commit: str, world: World) -> tuple[str, int]:
    """Full commit and number of commits up to it, out of a clone that holds no files."""
    with tempfile.TemporaryDirectory(prefix="llamaherd-lock-") as folder:
        _git(
            ["clone", "--bare", "--quiet", "--filter=tree:0", "--", repository, folder],
            repository,
            world,
        )
        here = ["-C", folder]
        known = [*here, "cat-file", "-e", f"{commit}^{{commit}}"]
        if _COMMIT.fullmatch(commit) and _run(known, world, CLONE_TIMEOUT).returncode != 0:
            # On no branch or tag (a pull request's head): most servers hand it out when asked.
            _git(
                [*here, "fetch", "--quiet", "--filter=tree:0", "origin", commit], repository, world
            )
        peeled = [*here, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
        found = _run(peeled, world, CLONE_TIMEOUT)
        if found.returncode != 0:
            raise PinError(f"{shown(repository)}: has no commit {commit}, or more than one")
        full = found.stdout.strip()
        return full, int(_git([*here, "rev-list", "--count", full], repository, world))


def _git(arguments: list[str], repository: str, world: World, timeout: int = CLONE_TIMEOUT) -> str:
    done = _run(arguments, world, timeout)
    if done.returncode == 0:
        return done.stdout
    complaint = [line for line in done.stderr.strip().splitlines() if line.strip()]
    last = next((line for line in complaint if line.startswith("fatal:")), (complaint or ["?"])[-1])
    raise PinError(f"{shown(repository)}: git says: {last.removeprefix('fatal: ')}")


def _run(arguments: list[str], world: World, timeout: int) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        **world.environment,
        "GIT_TERMINAL_PROMPT": "0",
        # `ext::` and the like would run a command that a fleet file names.
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file",
        "GIT_SSH_COMMAND": world.environment.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        "LC_ALL": "C",
    }
    # Inside another repository's hook these would point git there.
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(name, None)
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=world.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise PinError("git is not installed here; install it, or pin an archive instead") from None
    except subprocess.TimeoutExpired:
        raise PinError(f"git gave no answer within {timeout} s; try again") from None


def is_release(ref: str) -> bool:
    """Whether a ref is one of llama.cpp's release tags."""
    return _RELEASE.fullmatch(ref) is not None


def published(body: Mapping[str, Any], world: World) -> SourcePin | None:
    """What a locked ref could move to: the newest release for a release, else what the ref is now.

    None for a commit, which never moves. Nothing is cloned: the build number of what is no release
    stays None.
    """
    repository, ref = body["repository"], str(body["ref"])
    refs = _ls_remote(repository, world)
    if _RELEASE.fullmatch(ref):
        tags = (name.removeprefix("refs/tags/") for name in refs)
        newest = max((int(m[1]) for tag in tags if (m := _RELEASE.fullmatch(tag))), default=0)
        commit = _lookup(refs, f"b{newest}")
        return None if commit is None else SourcePin(body, commit, newest)
    commit = _lookup(refs, ref)
    return SourcePin(request=body, commit=commit) if commit is not None else None

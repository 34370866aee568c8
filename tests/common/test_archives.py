"""Archives that reach outside of their folder, unpacked by the real tar and unzip."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploys.common.archives import ARCHIVE_FUNCTIONS
from deploys.cuda.wheels import UNPACK
from deploys.llama_cpp.build import unpack_lines as unpack_source
from deploys.opencode.install import unpack_lines as unpack_opencode
from inventories.settings import ArchiveSource, Artifact

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("unzip") and shutil.which("tar")), reason="needs tar and unzip"
    ),
    pytest.mark.filterwarnings("ignore:Duplicate name"),
]
ELSEWHERE = "/no/such/place"


@dataclass(frozen=True)
class Member:
    """What an archive says of one of its members.

    + kind: as tarfile has it
    + link: what it leads to; ``@outside`` stands for the folder that nothing may reach
    """

    name: str
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    mode: int = 0o644
    data: bytes = b"hello\n"


def link(name: str, target: str) -> Member:
    return Member(name, tarfile.SYMTYPE, target)


def hard(name: str, target: str) -> Member:
    return Member(name, tarfile.LNKTYPE, target)


def write_tar(path: Path, members: Sequence[Member], outside: Path, how: str = "w") -> None:
    """A tar archive with exactly these names."""
    with tarfile.open(path, how) as archive:  # type: ignore[call-overload]
        for member in members:
            info = tarfile.TarInfo(member.name.replace("@outside", str(outside)))
            info.type, info.mode = member.kind, member.mode
            info.linkname = member.link.replace("@outside", str(outside))
            info.devmajor, info.devminor = 1, 3
            data = member.data if member.kind == tarfile.REGTYPE else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_zip(path: Path, members: Sequence[Member], outside: Path) -> None:
    """The same as a zip archive, whose links are files with the target for content."""
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            info = zipfile.ZipInfo(member.name.replace("@outside", str(outside)))
            info.create_system = 3
            is_link = member.kind == tarfile.SYMTYPE
            kind = stat.S_IFLNK if is_link else stat.S_IFREG
            info.external_attr = (kind | member.mode) << 16
            target = member.link.replace("@outside", str(outside)).encode()
            archive.writestr(info, target if is_link else member.data)


@dataclass(frozen=True)
class Place:
    """A folder to work in, and one beside it that must stay as it is."""

    work: Path
    outside: Path

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """The script as a job runs it."""
        return subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=self.work,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )

    def seen(self) -> list[tuple[str, int, bytes]]:
        """All that is outside: names, modes, contents."""
        return [
            (str(path), path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in sorted(
                [self.outside, *self.outside.rglob("*"), *self.work.parent.iterdir()]
            )
        ]


@contextmanager
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        found = Place(Path(folder) / "in" / "work", Path(folder) / "outside")
        found.work.mkdir(parents=True)
        found.outside.mkdir()
        (found.outside / "canary").write_text("alive")
        (found.outside / "canary").chmod(0o600)
        yield found


Unpacked = tuple[subprocess.CompletedProcess[str], Path]


def source(place: Place, members: Sequence[Member], subdirectory: str = "llama") -> Unpacked:
    """An archive of llama.cpp's source."""
    write_tar(place.work / "source.tar", members, place.outside)
    archive = ArchiveSource(Artifact("a.tar", 1, "a" * 64, path="/a.tar"), subdirectory)
    return place.run(unpack_source(archive, str(place.work))), place.work / "source.new"


def opencode(place: Place, members: Sequence[Member]) -> Unpacked:
    """OpenCode's npm package."""
    write_tar(place.work / "a.tgz", members, place.outside, "w:gz")
    (place.work / "stage").mkdir()
    done = place.run(unpack_opencode(str(place.work / "a.tgz")) + "chmod 755 stage/opencode\n")
    return done, place.work / "stage"


def wheels(place: Place, *each: Sequence[Member]) -> Unpacked:
    """CUDA's wheels."""
    (place.work / "wheels").mkdir()
    for number, members in enumerate(each):
        write_zip(place.work / "wheels" / f"{number}.whl", members, place.outside)
    done = place.run(f"staging={place.work}\n{ARCHIVE_FUNCTIONS}{UNPACK}")
    return done, place.work / "unpacked"


LISTS = Member("llama/CMakeLists.txt")
BINARY = Member("package/bin/opencode", mode=0o755)
SOURCES = {
    "parent": [LISTS, Member("llama/../../x")],
    "parent at the start": [Member("../x"), LISTS],
    "parent of another folder": [LISTS, Member("other/../../outside/x")],
    "absolute": [LISTS, Member("@outside/x")],
    "link outside": [LISTS, link("llama/out", "@outside")],
    "link to a file outside": [link("llama/CMakeLists.txt", "@outside/canary")],
    "relative link outside": [LISTS, link("llama/deep/out", "../../../../outside")],
    "link to nothing outside": [LISTS, link("llama/out", ELSEWHERE)],
    "link to the folder's own parent": [LISTS, link("llama/out", "..")],
    "link to itself as a folder": [LISTS, link("llama/out", "out/")],
    "link through a link": [LISTS, link("llama/a", "b/.."), link("llama/b", "../..")],
    "file through a link": [LISTS, link("llama/out", "@outside"), Member("llama/out/canary")],
    "hard link outside": [LISTS, hard("llama/out", "@outside/canary")],
    "hard link up": [LISTS, hard("llama/out", "../../outside/canary")],
    "hard link through a link": [
        LISTS,
        link("llama/out", "@outside"),
        hard("llama/x", "llama/out/canary"),
    ],
    "character device": [LISTS, Member("llama/null", tarfile.CHRTYPE)],
    "block device": [LISTS, Member("llama/disk", tarfile.BLKTYPE)],
    "fifo": [LISTS, Member("llama/pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("subdirectory", ["llama", ""])
def test_a_source_archive_that_reaches_outside_is_refused(name: str, subdirectory: str) -> None:
    members = [*SOURCES[name], *([] if subdirectory else [Member("CMakeLists.txt")])]
    with place() as here:
        before = here.seen()
        done, _ = source(here, members, subdirectory)
        assert done.returncode != 0, done.stdout
        assert here.seen() == before


@pytest.mark.parametrize(
    "members",
    [
        [BINARY, Member("../x")],
        [BINARY, Member("@outside/x")],
        [link("package/bin/opencode", "@outside/canary")],
        [link("package/bin/opencode", "../../../outside/canary")],
        [hard("package/bin/opencode", "@outside/canary")],
        [Member("package/bin/opencode", tarfile.CHRTYPE)],
        [Member("package/bin/opencode", tarfile.FIFOTYPE)],
        [BINARY, link("package/bin/opencode", "@outside/canary")],
    ],
)
def test_an_opencode_package_that_reaches_outside_is_refused(members: list[Member]) -> None:
    with place() as here:
        before = here.seen()
        done, _ = opencode(here, members)
        assert done.returncode != 0, done.stdout
        assert here.seen() == before


FINE = [Member("nvidia/cu13/bin/nvcc", mode=0o755)]
WHEELS: dict[str, list[list[Member]]] = {
    "parent": [[*FINE, Member("nvidia/../../../outside/x")]],
    "parent with backslashes": [[*FINE, Member("nvidia\\..\\..\\x")]],
    "absolute": [[*FINE, Member("@outside/x")]],
    "link outside": [[*FINE, link("nvidia/out", "@outside")]],
    "link inside": [[*FINE, link("nvidia/in", "cu13")]],
    "file through a link": [[link("nvidia/out", "@outside"), Member("nvidia/out/canary")]],
    "file through an earlier wheel's link": [
        [link("nvidia/out", "@outside")],
        [Member("nvidia/out/canary")],
    ],
}


@pytest.mark.parametrize("name", WHEELS)
def test_a_wheel_that_reaches_outside_is_refused(name: str) -> None:
    with place() as here:
        before = here.seen()
        done, _ = wheels(here, *WHEELS[name])
        assert done.returncode != 0, done.stdout
        assert here.seen() == before


def test_a_refusal_names_what_it_refuses() -> None:
    with place() as here:
        said = source(here, SOURCES["parent at the start"])[0].stderr
        assert "source.tar: refused: it holds the name ../x, which leads out of its folder" in said
    with place() as here:
        said = source(here, SOURCES["link outside"])[0].stderr
        assert "source.new/out: refused: it is a link that leads out of its folder" in said


def test_links_that_lead_nowhere_do_no_harm() -> None:
    with place() as here:
        done, folder = source(here, [LISTS, link("llama/out", "out")])
        assert done.returncode == 0
        assert (folder / "out").is_symlink()
    # What a member is cut down to leaves no link behind.
    with place() as here:
        done, folder = source(here, [link("llama", "@outside"), LISTS])
        assert done.returncode == 0
        assert [path.name for path in folder.iterdir()] == ["CMakeLists.txt"]
    with place() as here:
        done, folder = opencode(here, [link("package/bin", "@outside"), BINARY])
        assert done.returncode == 0
        assert (folder / "opencode").is_file()


def test_what_stays_inside_is_unpacked_whole_without_others_rights() -> None:
    members = [
        Member("llama/CMakeLists.txt", mode=0o666),
        Member("llama/tool", mode=0o4777),
        link("llama/deep/to", "../tool"),
        link("llama/to", "deep"),
        hard("llama/again", "llama/tool"),
        Member("llama/-x ü $(id)"),
    ]
    old = os.umask(0o022)
    try:
        with place() as here:
            done, folder = source(here, members)
            assert done.returncode == 0, done.stderr
            found = {path.name: path.lstat() for path in folder.rglob("*")}
            assert {"CMakeLists.txt", "tool", "to", "deep", "again", "-x ü $(id)"} == set(found)
            assert stat.S_IMODE(found["tool"].st_mode) == 0o755
            assert stat.S_IMODE(found["CMakeLists.txt"].st_mode) == 0o644
            assert not (here.work / "source.tar.names").exists()
    finally:
        os.umask(old)
    with place() as here:
        done, folder = opencode(here, [BINARY, Member("package/package.json")])
        assert done.returncode == 0, done.stderr
        assert [path.name for path in folder.iterdir()] == ["opencode"]
    with place() as here:
        done, folder = wheels(here, FINE, [Member("nvidia/cu13/x", mode=0o4755)])
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE((folder / "nvidia/cu13/x").stat().st_mode) == 0o755


def test_a_file_that_something_outside_shares_is_refused() -> None:
    with place() as here:
        (here.work / "tree").mkdir()
        os.link(here.outside / "canary", here.work / "tree" / "shared")
        done = here.run(f"{ARCHIVE_FUNCTIONS}tree_inside {here.work}/tree")
        assert "linked from outside" in done.stderr
        assert done.returncode == 1


PARTS = st.sampled_from(["..", ".", "", "llama", "a", "b", "-x", "@outside", "canary", "new\nline"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(lambda name: name.strip("/."))
MEMBERS = st.lists(
    st.one_of(
        st.builds(Member, NAMES),
        st.builds(link, NAMES, NAMES),
        st.builds(hard, NAMES, NAMES),
    ),
    max_size=6,
)
UNPACKERS: dict[str, Callable[[Place, list[Member]], Unpacked]] = {
    "source": lambda here, members: source(here, [LISTS, *members]),
    "opencode": lambda here, members: opencode(here, [*members, BINARY]),
    "wheels": lambda here, members: wheels(here, FINE, members, members),
}


@pytest.mark.parametrize("unpacker", UNPACKERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(members=MEMBERS)
def test_whatever_an_archive_says_nothing_outside_changes(
    unpacker: str, members: list[Member]
) -> None:
    with place() as here:
        before = here.seen()
        done, folder = UNPACKERS[unpacker](here, members)
        assert here.seen() == before
        if done.returncode != 0:
            return
        for path in folder.rglob("*"):
            assert path.resolve().is_relative_to(folder.resolve()), path

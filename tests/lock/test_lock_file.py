"""The lock file: written, read back, compared with the fleet; nonsense in it is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lock_support import write_fleet

from inventories.fleet import load_fleet
from inventories.lock import (
    CudaPin,
    Lock,
    ModelPin,
    OpenCodePin,
    SourcePin,
    check_lock,
    dump_lock,
    load_lock,
    lock_path,
    read_lock,
    requests_of,
    write_lock,
)
from inventories.settings import AptPackage, Artifact, CudaRepository
from schemas.problems import ProblemsError

HEX = "0123456789abcdef"
COMMITS = st.text(HEX, min_size=40, max_size=40)
HASHES = st.text(HEX, min_size=64, max_size=64)
WORD = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1
)
# What a fleet file's names look like, and some that YAML takes for something else.
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True) | st.sampled_from(
    ["no", "1e5", "0x1F", "1.20", "null", "y", "2026-01-01", "012", "b8146", "1_000"]
)
FILE_NAMES = st.lists(
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._ =é-]{0,20}", fullmatch=True), min_size=1, max_size=3
).map("/".join)
PLACES = st.one_of(
    st.fixed_dictionaries({"url": st.builds("https://example.com/{}".format, NAMES)}),
    st.fixed_dictionaries({"path": WORD}),
)
ARTIFACTS = st.builds(
    lambda name, size, sha256, place: Artifact(name, size, sha256, **place),
    FILE_NAMES,
    st.integers(0, 1 << 50),
    HASHES,
    PLACES,
)
REQUESTS = st.dictionaries(
    NAMES, WORD | st.booleans() | st.integers(-9, 9) | st.lists(WORD, min_size=1), min_size=1
)
MODELS = st.builds(
    ModelPin,
    request=REQUESTS,
    files=st.lists(ARTIFACTS, min_size=1, max_size=3).map(tuple),
    revision=st.none() | COMMITS,
    mmproj=st.none() | FILE_NAMES,
)
SOURCES = st.builds(
    SourcePin, request=REQUESTS, commit=COMMITS, build_number=st.integers(0, 99999)
) | st.builds(SourcePin, request=REQUESTS, archive=ARTIFACTS)
RELEASES = st.builds(
    OpenCodePin,
    request=REQUESTS,
    version=NAMES,
    artifacts=st.dictionaries(st.sampled_from(["x86_64", "aarch64"]), ARTIFACTS, min_size=1),
)
REPOSITORIES = st.builds(
    CudaRepository,
    distribution=st.sampled_from(["debian12", "ubuntu2404"]),
    url=st.just("https://example.com/repos/debian12/x86_64/"),
    key=ARTIFACTS,
    packages=st.lists(
        st.builds(AptPackage, st.just("cuda-nvcc-13-0"), st.just("13.0.88-1"), HASHES),
        min_size=1,
        max_size=2,
    ).map(tuple),
)
TOOLKITS = st.builds(
    CudaPin,
    request=REQUESTS,
    version=NAMES,
    wheels=st.lists(ARTIFACTS, min_size=1, max_size=2).map(tuple),
) | st.builds(
    CudaPin,
    request=REQUESTS,
    version=NAMES,
    repositories=st.lists(REPOSITORIES, min_size=1, max_size=2).map(tuple),
)
LOCKS = st.builds(
    Lock,
    models=st.dictionaries(NAMES, MODELS, max_size=2),
    llama_cpp=st.dictionaries(NAMES, SOURCES, max_size=2),
    opencode=st.dictionaries(NAMES, RELEASES, max_size=2),
    cuda=st.dictionaries(NAMES, TOOLKITS, max_size=2),
)


@settings(max_examples=40, deadline=None)
@given(LOCKS)
def test_what_is_written_reads_back_the_same(lock: Lock) -> None:
    assert load_lock(dump_lock(lock), "x.lock.yaml") == lock


@settings(max_examples=15, deadline=None)
@given(LOCKS)
def test_the_same_pins_in_another_order_are_the_same_text(lock: Lock) -> None:
    backwards = Lock(
        **{
            kind: dict(reversed(list(lock.pins(kind).items())))  # type: ignore[arg-type]
            for kind in ("models", "llama_cpp", "opencode", "cuda")
        }
    )
    assert dump_lock(backwards) == dump_lock(lock)


def test_a_written_lock_is_left_alone_when_nothing_changed(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    lock = Lock(llama_cpp={"b1": SourcePin({"ref": "b1"}, "a" * 40, 1)})
    assert write_lock(fleet, lock)
    stamp = lock_path(fleet).stat()
    assert not write_lock(fleet, lock)
    assert lock_path(fleet).stat().st_mtime_ns == stamp.st_mtime_ns
    assert stamp.st_mode & 0o777 == 0o644
    assert read_lock(fleet) == lock
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.lock.yaml"]


def test_without_a_lock_file_there_is_no_lock(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "fleet.yaml") is None


GOOD = dump_lock(
    Lock(
        models={
            "tiny": ModelPin(
                {"hub": {"repo": "a/b"}},
                (Artifact("tiny.gguf", 10, "a" * 64, url="https://example.com/tiny.gguf"),),
                "b" * 40,
            )
        },
        llama_cpp={"b8146": SourcePin({"ref": "b8146"}, "c" * 40, 8146)},
    )
)


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("version: 1", "version: 2", ":3:10", "must be 1"),
        ("build_number: 8146", "build_number: many", ":", "number"),
        ("c" * 40, "c" * 39, ":", "commit"),
        ("    commit:", "    comit:", ":", "needs exactly one of commit and archive"),
        ("tiny.gguf\n", "../../etc/passwd\n", ":", "name"),
        ("tiny.gguf\n", '"-rf"\n', ":", "name"),
        ("tiny.gguf\n", '"a\\nb"\n', ":", "name"),
        ("url: https://example.com/tiny.gguf", "url: file:///etc/passwd", ":", "url"),
        ("//example.com/tiny", "//eva:hunter2@example.com/tiny", ":", "https://***@example.com"),
        ("size: 10", "size: -10", ":", "size"),
        ("models:", "models: [", ":", ""),
        ("models:", "\tmodels:", ":", "tab"),
        ("models:", "modles:", ":", "models"),
        (GOOD, "", ":1:1", ""),
        (GOOD, "- a list", ":1:1", "mapping"),
    ],
)
def test_nonsense_is_refused_with_its_place_and_the_remedy(
    tmp_path: Path, old: str, new: str, place: str, message: str
) -> None:
    assert old in GOOD
    path = lock_path(tmp_path / "fleet.yaml")
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(ProblemsError) as caught:
        read_lock(tmp_path / "fleet.yaml")
    problem = caught.value.problems[0]
    assert str(problem).startswith(f"{path}{place}")
    assert message in str(problem)
    assert "hunter2" not in str(problem)
    assert "take the file from version control" in problem.message


def test_a_lock_that_is_not_text_is_refused(tmp_path: Path) -> None:
    lock_path(tmp_path / "fleet.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProblemsError):
        read_lock(tmp_path / "fleet.yaml")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 60))
def test_a_damaged_lock_is_read_or_refused_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    text = list(GOOD)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(text))
        text[place : place + chance.randint(0, 5)] = chance.choice(
            ["", "\n", ": ", "- ", "{", "&a"]
        )
    try:
        found: object = load_lock("".join(text), "x.lock.yaml")
    except ProblemsError as error:
        found = error
    # Any other exception is the failure that is looked for.
    assert isinstance(found, (Lock, ProblemsError))


FLEET = """
models:
  tiny: {hub: {repo: acme/Tiny-GGUF, quant: Q4_0}, sampling: {temperature: 0.5}}
defaults:
  ssh: {user: ops}
  cuda: {provider: nvidia-repo, version: "13.0"}
  llama_cpp: {ref: b8146, architectures: ["89"]}
hosts:
  one:
    servers: {coder: {model: tiny, port: 8888, context: 32768}}
    opencode: {users: [dev]}
  two:
    llama_cpp: {repository: "https://example.com/fork.git"}
    servers: {coder: {model: tiny, port: 8888, context: 32768}}
"""


def locked(path: Path) -> Lock:
    """A lock that answers every request of a fleet; what it says doesn't matter here."""
    artifact = Artifact("file", 1, "a" * 64, url="https://example.com/file")
    makers = {
        "models": lambda body: ModelPin(body, (artifact,), "b" * 40 if "hub" in body else None),
        "llama_cpp": lambda body: SourcePin(body, "c" * 40, 8146),
        "opencode": lambda body: OpenCodePin(body, "1.18.33", {"x86_64": artifact}),
        "cuda": lambda body: CudaPin(body, "13.0", wheels=(artifact,)),
    }
    pins: dict[str, dict[str, object]] = {}
    for request in requests_of(load_fleet(path)):
        pins.setdefault(request.kind, {})[request.name] = makers[request.kind](request.body)
    return Lock(**pins)  # type: ignore[arg-type]


def test_a_fleet_asks_for_each_thing_once(tmp_path: Path) -> None:
    names = [r.label for r in requests_of(load_fleet(write_fleet(tmp_path, FLEET)))]
    assert names == [
        "models tiny",
        "llama_cpp b8146@https://example.com/fork.git",
        "llama_cpp b8146@https://github.com/ggml-org/llama.cpp",
        "opencode 1.18.33",
        "cuda nvidia-repo-13.0",
    ]


def test_two_models_of_one_file_have_a_pin_each(tmp_path: Path) -> None:
    models = "{one: {hub: {repo: a/b, quant: Q4_0}}, two: {hub: {repo: a/b, quant: Q4_0}}}"
    path = write_fleet(tmp_path, f"models: {models}\nhosts: {{gpu-01: {{}}}}\n")
    assert [request.name for request in requests_of(load_fleet(path))] == ["one", "two"]
    assert check_lock(load_fleet(path), locked(path)) == []


def test_a_lock_that_answers_everything_is_current(tmp_path: Path) -> None:
    path = write_fleet(tmp_path, FLEET)
    assert check_lock(load_fleet(path), locked(path)) == []


def test_without_a_lock_the_command_is_named(tmp_path: Path) -> None:
    path = write_fleet(tmp_path, FLEET)
    (problem,) = check_lock(load_fleet(path), None)
    assert f"run: llamaherd lock {path}" in problem.message


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("quant: Q4_0", "quant: Q8_0", ["models tiny is stale"]),
        ("{repo: acme/Tiny-GGUF,", "{repo: acme/Other-GGUF,", ["models tiny is stale"]),
        ("tiny: {hub: {", "tiny: {hub: {revision: v2, ", ["models tiny is stale"]),
        ('version: "13.0"', 'version: "13.1"', ["cuda nvidia-repo-13.1 is missing"]),
        ("provider: nvidia-repo", "provider: wheels", ["cuda wheels-13.0 is missing"]),
        ("users: [dev]", "users: [dev], version: 1.18.30", ["opencode 1.18.30 is missing"]),
        ("ref: b8146", "ref: b9000", ["b9000@https://github", "b9000@https://example"]),
    ],
)
def test_a_pin_is_stale_when_the_fleet_asks_something_else(
    tmp_path: Path, old: str, new: str, stale: list[str]
) -> None:
    lock = locked(write_fleet(tmp_path, FLEET))
    assert old in FLEET
    path = write_fleet(tmp_path, FLEET.replace(old, new))
    problems = check_lock(load_fleet(path), lock)
    assert len(problems) == len(stale)
    for problem, words in zip(problems, stale, strict=True):
        assert words in problem.message
        assert f"run: llamaherd lock {path}" in problem.message
        assert problem.position.line > 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("temperature: 0.5", "temperature: 0.9"),
        ('architectures: ["89"]', 'architectures: ["120"]'),
        ("port: 8888", "port: 9999"),
        ("users: [dev]", "users: [dev, ci]"),
        ("user: ops", "user: admin"),
    ],
)
def test_settings_that_name_nothing_outside_leave_the_lock_current(
    tmp_path: Path, old: str, new: str
) -> None:
    lock = locked(write_fleet(tmp_path, FLEET))
    assert old in FLEET
    path = write_fleet(tmp_path, FLEET.replace(old, new))
    assert check_lock(load_fleet(path), lock) == []

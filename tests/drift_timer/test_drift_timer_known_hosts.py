"""Host keys go along to the controller, and what it knows by itself survives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploys.drift_timer import known_keys
from deploys.drift_timer.known_hosts import host_name, merged, parse_known_hosts
from inventories.settings import DriftTimerSettings, KnownHost

TEXT = """\
# a comment
gpu-01,10.0.0.11 ssh-ed25519 AAA1 root@gpu-01
gpu-01 ssh-rsa BBB1
[gpu-02]:2222 ssh-ed25519 AAA2
@cert-authority *.example.com ssh-ed25519 CCC
|1|broken ssh-ed25519 DDD
short
"""


def test_a_host_has_all_its_keys_under_each_of_its_names() -> None:
    known = parse_known_hosts(TEXT)
    assert known.keys("gpu-01") == {"ssh-ed25519 AAA1", "ssh-rsa BBB1"}
    assert known.keys("10.0.0.11") == {"ssh-ed25519 AAA1"}
    assert known.keys(host_name("gpu-02", 2222)) == {"ssh-ed25519 AAA2"}
    assert known.keys("gpu-02") == frozenset()
    assert known.keys("x.example.com") == frozenset()


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
def test_names_that_ssh_keygen_hashed_are_found(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    path = tmp_path / "known_hosts"
    path.write_text(f"10.0.0.11 {public}\n[gpu-02]:2222 {public}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    text = path.read_text()
    assert "10.0.0.11" not in text
    known = parse_known_hosts(text)
    assert known.keys("10.0.0.11") == known.keys("[gpu-02]:2222") == {public}
    assert known.keys("10.0.0.12") == frozenset()


def test_a_host_that_is_not_known_is_added() -> None:
    text = merged("other ssh-rsa X\n", {"gpu-01": frozenset({"t B", "t A"})})
    assert text == "other ssh-rsa X\ngpu-01 t A\ngpu-01 t B\n"


def test_a_host_with_one_key_in_common_is_left_as_it_is() -> None:
    text = "gpu-01 ssh-rsa R\ngpu-01 ssh-ed25519 E\n"
    assert merged(text, {"gpu-01": frozenset({"ssh-ed25519 E"})}) == text


def test_a_host_that_got_new_keys_loses_the_old_ones() -> None:
    text = merged("gpu-01 t OLD\ngpu-02 t X\n", {"gpu-01": frozenset({"t NEW"})})
    assert text == "gpu-02 t X\ngpu-01 t NEW\n"


def test_a_host_that_nobody_here_knows_is_left_alone() -> None:
    text = "gpu-01 t MINE\n"
    assert merged(text, {"gpu-01": frozenset()}) == text


names = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
keys = st.frozensets(st.sampled_from([f"t {letter}" for letter in "ABCD"]), max_size=3)


@given(st.dictionaries(names, keys), st.dictionaries(names, keys))
def test_a_second_merge_changes_nothing(
    one: dict[str, frozenset[str]], other: dict[str, frozenset[str]]
) -> None:
    text = merged(merged("", one), other)
    assert merged(text, other) == text
    known = parse_known_hosts(text)
    assert all(known.keys(name) & wanted for name, wanted in other.items() if wanted)


def test_each_host_is_looked_up_in_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAMAHERD_KNOWN_HOSTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text("gpu-01 t A\n")
    (tmp_path / "fleet_hosts").write_text("[gpu-02]:2222 t B\n")
    hosts = (
        KnownHost("gpu-01"),
        KnownHost("gpu-02", 2222, str(tmp_path / "fleet_hosts")),
        KnownHost("gpu-03", None, str(tmp_path / "no-such-file")),
    )
    settings = DriftTimerSettings("/f", hosts)
    assert known_keys(settings) == {
        "gpu-01": {"t A"},
        "[gpu-02]:2222": {"t B"},
        "gpu-03": frozenset(),
    }
    monkeypatch.setenv("LLAMAHERD_KNOWN_HOSTS", str(tmp_path / "fleet_hosts"))
    assert known_keys(settings)["gpu-01"] == frozenset(), "the controller's own file goes first"

"""Adapters and tokens: asked of a real hub, pinned, and told to hosts."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import pytest
from hub import Hub
from lock_support import FileServer, run_lock, write_fleet
from test_lock_file import locked

from inventories.fleet import load_fleet
from inventories.lock import ModelPin, read_lock
from inventories.resolve import resolve_host
from inventories.settings import (
    Adapter,
    Artifact,
    HostSettings,
    ModelSettings,
    SecretReference,
)
from schemas.problems import ProblemsError

LORA = b"GGUF" + bytes(3000)
SHA256 = hashlib.sha256(LORA).hexdigest()

FLEET = """
hub: {endpoint: "HUB"}
models:
  tiny:
    hub: {repo: acme/Tiny-GGUF, quant: Q4_0}
    mmproj: true
    adapters:
      zeta: {hub: {repo: acme/LoRA-GGUF, file: "odd, name: 1.gguf"}, scale: 0.5}
      alpha: {url: "WWW/alpha.gguf", sha256: "SUM"}
      beta: {path: beta.gguf, sha256: "SUM", scale: 0}
hosts:
  one:
    cuda: {provider: none}
    llama_cpp: {archive: {path: src.tgz, sha256: "SRC"}, commit: abc1234, build_number: 1}
    servers: {coder: {model: tiny, port: 8888}}
"""


@pytest.fixture
def fleet(tmp_path: Path, hub_root: Path, hub: Hub, files: FileServer) -> Path:
    (hub_root / "acme/LoRA-GGUF").mkdir()
    (hub_root / "acme/LoRA-GGUF/odd, name: 1.gguf").write_bytes(LORA)
    (files.root / "alpha.gguf").write_bytes(LORA)
    (tmp_path / "beta.gguf").write_bytes(LORA)
    (tmp_path / "src.tgz").write_bytes(b"source")
    source = hashlib.sha256(b"source").hexdigest()
    text = FLEET.replace("HUB", hub.url).replace("WWW", files.url)
    return write_fleet(tmp_path, text.replace("SUM", SHA256).replace("SRC", source))


def settings(path: Path) -> HostSettings:
    lock = read_lock(path)
    assert lock is not None
    return resolve_host(load_fleet(path), lock, "one")


def test_adapters_are_pinned_wherever_they_lie(fleet: Path) -> None:
    assert run_lock(fleet) == 0
    lock = read_lock(fleet)
    assert lock is not None
    pin = lock.models["tiny"]
    assert isinstance(pin, ModelPin)
    assert pin.adapters is not None
    assert {name: file.sha256 for name, file in pin.adapters.items()} == {
        "alpha": SHA256,
        "beta": SHA256,
        "zeta": SHA256,
    }
    assert "/resolve/" in str(pin.adapters["zeta"].url)
    assert run_lock(fleet, "--check") == 0


def test_hosts_get_adapters_beside_the_model_named_by_content(fleet: Path) -> None:
    run_lock(fleet)
    (model,) = settings(fleet).models
    names = [f"adapters/{name}-{SHA256[:12]}.gguf" for name in ("alpha", "beta", "zeta")]
    assert [file.name for file in model.files] == ["Tiny-Q4_0.gguf", "mmproj-F16.gguf", *names]
    assert model.adapters == (
        Adapter("alpha", names[0], 1.0),
        Adapter("beta", names[1], 0.0),
        Adapter("zeta", names[2], 0.5),
    )
    assert model.files[3].path == str(fleet.parent / "beta.gguf")


def test_a_scale_moves_no_pin_and_another_file_does(fleet: Path) -> None:
    run_lock(fleet)
    text = fleet.read_text()
    fleet.write_text(text.replace("scale: 0.5", "scale: 0.6"))
    assert run_lock(fleet, "--check") == 0
    fleet.write_text(text.replace("odd, name: 1.gguf", "other.gguf"))
    assert run_lock(fleet, "--check") == 1


def test_a_model_without_adapters_asks_what_it_asked_before(fleet: Path) -> None:
    text = fleet.read_text()
    start, end = text.index("    adapters:"), text.index("hosts:")
    fleet.write_text(text[:start] + text[end:])
    run_lock(fleet)
    lock = read_lock(fleet)
    assert lock is not None
    assert set(lock.models["tiny"].request) == {"hub", "mmproj"}
    assert "adapters" not in fleet.with_name("fleet.lock.yaml").read_text()


def test_a_missing_file_is_named_with_what_is_there(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.write_text(fleet.read_text().replace("odd, name: 1.gguf", "odd, name: 2.gguf"))
    assert run_lock(fleet) == 1
    assert "has no file odd, name: 2.gguf; did you mean odd, name: 1.gguf?" in (
        capsys.readouterr().err
    )


# Tokens -----------------------------------------------------------------------------------------

TOKENS = """
hub: {endpoint: "HOME", token: {env: FLEET_TOKEN}}
models:
  home: {hub: {repo: acme/Tiny-GGUF, quant: Q4_0}}
  same: {hub: {repo: acme/Tiny-GGUF, quant: Q8_0, endpoint: "HOME/"}}
  away: {hub: {repo: acme/Tiny-GGUF, quant: Q4_0, endpoint: "AWAY"}}
  own: {hub: {repo: acme/Tiny-GGUF, quant: Q8_0, endpoint: "AWAY", token: {env: AWAY_TOKEN}}}
  local:
    path: m.gguf
    sha256: "SUM"
    adapters: {a: {hub: {repo: acme/Tiny-GGUF, file: Tiny-Q8_0.gguf, token: {env: AWAY_TOKEN}}}}
hosts: {one: {}}
"""


def test_a_token_goes_to_its_own_hub_and_to_no_other(
    tmp_path: Path, hub_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_token, away_token = secrets.token_hex(16), secrets.token_hex(16)
    monkeypatch.setenv("FLEET_TOKEN", home_token)
    monkeypatch.setenv("AWAY_TOKEN", away_token)
    (tmp_path / "m.gguf").write_bytes(LORA)
    with Hub(hub_root, large=1000) as home, Hub(hub_root, large=1000) as away:
        text = TOKENS.replace("HOME", home.url).replace('AWAY"', f'{away.url}"')
        assert run_lock(write_fleet(tmp_path, text.replace("SUM", SHA256))) == 0
        seen_home = {header for _, path, header in home.requests if path.startswith("/api")}
        seen_away = {header for _, path, header in away.requests if path.startswith("/api")}
    assert seen_home == {f"Bearer {home_token}", f"Bearer {away_token}"}  # local's adapter
    assert seen_away == {None, f"Bearer {away_token}"}


def test_hosts_are_told_each_files_own_token(tmp_path: Path) -> None:
    text = TOKENS.replace("HOME", "https://hub.example.com").replace(
        'AWAY"', 'https://away.example.com"'
    )
    text = text.replace("SUM", "1" * 64).replace(
        "one: {}",
        "one: {cuda: {provider: none}, llama_cpp: {ref: b1}, servers: {"
        + ", ".join(
            f"s{port}: {{model: {name}, port: {port}}}"
            for port, name in enumerate(("home", "same", "away", "own", "local"), 1)
        )
        + "}}",
    )
    path = write_fleet(tmp_path, text)
    models = resolve_host(load_fleet(path), locked(path), "one").models
    fleet, away = SecretReference(env="FLEET_TOKEN"), SecretReference(env="AWAY_TOKEN")
    tokens = {model.name: model.token for model in models}
    assert tokens == {"home": fleet, "same": fleet, "away": None, "own": away, "local": None}


def test_a_literal_token_is_refused(tmp_path: Path) -> None:
    path = write_fleet(
        tmp_path, "models: {a: {hub: {repo: a/b, quant: Q4_0, token: hf_x}}}\nhosts: {one: {}}\n"
    )
    with pytest.raises(ProblemsError, match=r"models\.a\.hub\.token"):
        load_fleet(path)


def test_a_file_of_the_model_itself_has_the_models_token() -> None:
    files = (Artifact("m", 1, "a", url="u"), Artifact("adapters/x", 1, "b", url="v"))
    token, other = SecretReference(env="A"), SecretReference(env="B")
    model = ModelSettings(
        "m", "M", "/d", files, token=token, adapters=(Adapter("x", "adapters/x", token=other),)
    )
    assert [model.token_of(file) for file in files] == [token, other]

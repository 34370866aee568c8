"""Fleet and lock joined: what each host is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lock_support import write_fleet
from test_lock_file import locked

from inventories.fleet import load_fleet
from inventories.lock import Lock, SourcePin
from inventories.resolve import UnlockedError, resolve_host
from inventories.settings import (
    ArchiveSource,
    Artifact,
    GitSource,
    HostSettings,
    Sampling,
    SecretReference,
    from_data,
    to_data,
)

FLEET = """
hub: {token: {env: HF_TOKEN}}
models:
  tiny:
    hub: {repo: acme/Tiny-GGUF, quant: Q4_0}
    sampling: {temperature: 0.5, top_p: 0.9}
    reasoning: true
  local: {path: models/local.gguf, sha256: "SHA256"}
  remote: {url: "https://example.com/get/remote.gguf?x=1", sha256: "SHA256", title: From afar}
defaults:
  cuda: {provider: none}
  llama_cpp: {ref: b8146, cmake: {GGML_RPC: true, GGML_LTO: "OFF"}}
hosts:
  one:
    ssh: {hostname: 10.0.0.1, user: ops, key: keys/id, password: {file: pw}}
    servers:
      coder:
        model: tiny
        port: 8888
        host: 0.0.0.0
        api_key: {env: API_KEY}
        context: 40000
        sampling: {temperature: 0.1, min_p: 0.05}
        gpus: [0, 1]
      draft: {model: local, port: 8889, context: 32768}
      bound: {model: remote, port: 8890, context: 32768, host: 10.9.9.9, api_key: {env: API_KEY}}
    opencode: {users: [dev], default: coder}
  client:
    cuda: null
    llama_cpp: null
    opencode: {users: [dev], default: one/coder}
""".replace("SHA256", "1" * 64)


@pytest.fixture
def hosts(tmp_path: Path) -> dict[str, HostSettings]:
    path = write_fleet(tmp_path, FLEET)
    fleet, lock = load_fleet(path), locked(path)
    return {name: resolve_host(fleet, lock, name) for name in fleet.hosts}


def test_settings_survive_the_way_through_host_data(hosts: dict[str, HostSettings]) -> None:
    for settings in hosts.values():
        assert from_data(HostSettings, json.loads(json.dumps(to_data(settings)))) == settings


def test_ssh_paths_start_at_the_fleet_file(hosts: dict[str, HostSettings], tmp_path: Path) -> None:
    ssh = hosts["one"].ssh
    assert (ssh.hostname, ssh.user, ssh.key) == ("10.0.0.1", "ops", str(tmp_path / "keys/id"))
    assert ssh.password == SecretReference(file="pw", directory=str(tmp_path))
    assert hosts["client"].ssh.hostname == "client"


def test_a_git_build_gets_the_locked_commit_and_number(hosts: dict[str, HostSettings]) -> None:
    build = hosts["one"].llama_cpp
    assert build is not None
    assert build.source == GitSource("https://github.com/ggml-org/llama.cpp", "c" * 40)
    assert (build.build_number, build.commit) == (8146, "ccccccc")
    assert build.cmake == {"GGML_LTO": "OFF", "GGML_RPC": "ON"}


def test_an_archive_build_gets_what_the_fleet_says_of_it(tmp_path: Path) -> None:
    path = write_fleet(
        tmp_path,
        f"""
hosts:
  one:
    cuda: {{provider: none}}
    llama_cpp:
      archive: {{path: ../src.tar.gz, sha256: "{"a" * 64}", subdirectory: src}}
      commit: 0c1e570
      build_number: 7
""",
    )
    request = {"archive": {"path": "../src.tar.gz", "sha256": "a" * 64}}
    artifact = Artifact("src.tar.gz", 5, "a" * 64, path="../src.tar.gz")
    lock = Lock(llama_cpp={"src.tar.gz": SourcePin(request, archive=artifact)})
    build = resolve_host(load_fleet(path), lock, "one").llama_cpp
    assert build is not None
    assert isinstance(build.source, ArchiveSource)
    assert build.source.artifact.path == str(tmp_path.parent / "src.tar.gz")
    assert (build.source.subdirectory, build.commit, build.build_number) == ("src", "0c1e570", 7)


def test_a_host_has_the_models_of_its_servers_each_in_its_own_place(
    hosts: dict[str, HostSettings],
) -> None:
    root = "/var/lib/llamaherd/models"
    found = {model.name: model for model in hosts["one"].models}
    assert set(found) == {"tiny", "local", "remote"}
    assert found["tiny"].directory == f"{root}/acme/Tiny-GGUF/{'b' * 40}"
    assert hosts["client"].models == ()


def test_titles_are_for_people(hosts: dict[str, HostSettings]) -> None:
    titles = {model.name: model.title for model in hosts["one"].models}
    assert titles == {
        "tiny": "acme/Tiny-GGUF Q4_0",
        "local": "local.gguf",
        "remote": "From afar",
    }


def test_a_servers_sampling_goes_over_its_models(hosts: dict[str, HostSettings]) -> None:
    servers = {server.name: server for server in hosts["one"].servers}
    assert servers["coder"].sampling == Sampling(temperature=0.1, top_p=0.9, min_p=0.05)


def test_gpus_are_text_and_all_is_none(hosts: dict[str, HostSettings]) -> None:
    servers = {server.name: server for server in hosts["one"].servers}
    assert servers["coder"].gpus == ("0", "1")
    assert servers["draft"].gpus is None


def test_a_server_is_reached_where_it_listens(hosts: dict[str, HostSettings]) -> None:
    addresses = {server.name: server.address for server in hosts["one"].servers}
    assert addresses == {"coder": "10.0.0.1:8888", "draft": None, "bound": "10.9.9.9:8890"}


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("0.0.0.0", "gpu.example.com", "gpu.example.com:8888"),
        ("0.0.0.0", "gpu.example.com:80", "gpu.example.com:80"),
        ("::", "fd00::1", "[fd00::1]:8888"),
        ("::", "[fd00::1]:80", "[fd00::1]:80"),
        ("127.0.0.1", "proxy.example.com:443", "proxy.example.com:443"),
        ("fd00::2", None, "[fd00::2]:8888"),
        ("localhost", None, None),
        ("::1", None, None),
    ],
)
def test_an_address_that_is_set_comes_first(
    tmp_path: Path, host: str, address: str | None, expected: str | None
) -> None:
    given = f', address: "{address}"' if address else ""
    path = write_fleet(
        tmp_path,
        f"""
models: {{tiny: {{hub: {{repo: acme/Tiny-GGUF, quant: Q4_0}}}}}}
hosts:
  one:
    cuda: {{provider: none}}
    llama_cpp: {{ref: b8146}}
    servers:
      coder: {{model: tiny, port: 8888, host: "{host}"{given}, api_key: {{env: API_KEY}}}}
""",
    )
    fleet = load_fleet(path)
    servers = {server.name: server for server in resolve_host(fleet, locked(path), "one").servers}
    assert servers["coder"].address == expected


def test_opencode_talks_to_its_own_host_over_loopback(hosts: dict[str, HostSettings]) -> None:
    opencode = hosts["one"].opencode
    assert opencode is not None
    (provider,) = opencode.providers
    assert provider.base_url == "http://127.0.0.1:8888/v1"
    assert (provider.name, provider.server) == ("llama-server (local)", "one/coder")
    assert provider.api_key == SecretReference(env="API_KEY")
    assert opencode.default_model == "llama.cpp/tiny"


def test_a_client_talks_to_the_servers_real_address(hosts: dict[str, HostSettings]) -> None:
    opencode = hosts["client"].opencode
    assert opencode is not None
    (provider,) = opencode.providers
    assert provider.base_url == "http://10.0.0.1:8888/v1"
    assert provider.name == "llama-server (one)"
    model = provider.models[0]
    assert (model.id, model.name) == ("tiny", "acme/Tiny-GGUF Q4_0")
    assert (model.context, model.output, model.reasoning) == (40000, 10000, True)


@pytest.mark.parametrize(("mmproj", "images"), [("", False), ("\n    mmproj: true", True)])
def test_a_model_with_a_projector_takes_images(tmp_path: Path, mmproj: str, images: bool) -> None:
    text = FLEET.replace("\n    reasoning: true", mmproj)
    path = write_fleet(tmp_path, text)
    fleet = load_fleet(path)
    opencode = resolve_host(fleet, locked(path), "client").opencode
    assert opencode is not None
    assert opencode.providers[0].models[0].images is images


def test_only_the_hubs_models_carry_the_hubs_token(tmp_path: Path) -> None:
    path = write_fleet(tmp_path, FLEET)
    fleet, lock = load_fleet(path), locked(path)
    found = resolve_host(fleet, lock, "one").models
    tokens = {model.name: model.token for model in found}
    assert tokens == {"tiny": SecretReference(env="HF_TOKEN"), "local": None, "remote": None}
    places = {model.name: model.directory for model in found}
    assert places["remote"] == f"/var/lib/llamaherd/models/url/remote/{'a' * 16}"


def test_an_unlocked_host_names_the_command(tmp_path: Path) -> None:
    path = write_fleet(tmp_path, FLEET)
    with pytest.raises(UnlockedError, match=f"run: llamaherd lock {path}"):
        resolve_host(load_fleet(path), Lock(), "one")

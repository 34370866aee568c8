"""Settings of a server together: what one does to others, to files, and to older builds.

What each does alone is in tests/fleet/test_effects.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from servers_support import files_of, instance_of, settings_of

from deploys.llama_server.arguments import arguments
from deploys.llama_server.errors import ServerError
from deploys.llama_server.files import server_files
from deploys.llama_server.instance import Instance
from deploys.llama_server.unit import config_hash, render_unit
from inventories.fleet import load_fleet
from inventories.llama_options import OPTIONS, managed
from inventories.settings import HostSettings, from_data, to_data
from inventories.sizing.dimensions import CacheLayers, Dimensions
from llamaherd.models import fleet_known

ROUTER = "models: {glm: {}, small: {}}, port: 8888"


def whole(server: str) -> str:
    """A server's YAML with what it must have."""
    model = "" if "model" in server else "model: glm, "
    port = "" if "port:" in server or "unix_socket" in server else "port: 8888, "
    return f"{{{model}{port}{server}}}"


def test_text_that_a_preset_file_takes_for_a_comment_is_written_otherwise(tmp_path: Path) -> None:
    written = 'chat_template_kwargs: {style: "a;b #c"}'
    server = f"{{models: {{glm: {{}}, small: {{{written}}}}}, port: 8888}}"
    preset = files_of(settings_of(tmp_path, server))["models.ini"]
    assert 'chat-template-kwargs = {"style": "a\\u003bb \\u0023c"}\n' in preset


def test_settings_of_a_router_survive_the_way_through_host_data(tmp_path: Path) -> None:
    server = (
        "{models: {glm: {tensor_split: [1, 2]}, small: {context: 512}}, port: 8888, "
        "tls: {certificate: /c, key: /k}, chat_template_kwargs: {a: 1}}"
    )
    settings = settings_of(tmp_path, server)
    assert from_data(HostSettings, to_data(settings)) == settings


def test_a_routers_models_take_what_the_server_says_and_what_is_theirs(tmp_path: Path) -> None:
    server = "{models: {glm: {context: 8192}, small: {}}, port: 8888, context: 4096, parallel: 1}"
    settings = settings_of(tmp_path, server)
    preset = files_of(settings)["models.ini"]
    glm, small = preset.split("[small]")
    assert "ctx-size = 8192\n" in glm
    assert "ctx-size = 4096\n" in small
    assert "top-k = 20\n" in small  # the model's own sampling
    line = arguments(instance_of(settings))
    # What a router is told on its command line would win over every model's own settings.
    assert not {"--ctx-size", "--parallel", "--alias", "--model", "--threads"} & set(line)


def test_what_a_preset_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"{{{ROUTER}}}")
    instance = instance_of(settings)
    odd = [*instance.models]
    object.__setattr__(odd[0], "directory", "/models/#1")
    with pytest.raises(ServerError, match=r"servers\.coder\.models.*can't hold"):
        server_files(instance)


def test_a_changed_preset_is_a_changed_configuration(tmp_path: Path) -> None:
    units = [
        render_unit(instance_of(settings_of(tmp_path, f"{{models: {models}, port: 8888}}")))
        for models in ("{glm: {}, small: {}}", "{glm: {}, small: {context: 8192}}")
    ]
    assert len({config_hash(unit) for unit in units}) == 2


@pytest.mark.parametrize(
    ("server", "option"),
    [
        ("cache_ram: 100", "--cache-ram"),
        ("kv_unified: false", "--no-kv-unified"),
        ("sleep_idle_seconds: 5", "--sleep-idle-seconds"),
        ("reasoning: disabled", "--reasoning"),
        ("slot_save: true", "--slot-save-path"),
        (ROUTER, "--models-preset"),
    ],
)
def test_a_build_without_the_option_is_named_with_the_setting(
    server: str, option: str, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, whole(server))
    old = instance_of(settings, options=frozenset({"--model", "--jinja"}))
    words = rf"servers\.coder\.\w+: this llama.cpp \(b10900-0c1e570-abc\) has no {option}: "
    with pytest.raises(ServerError, match=words + "set a newer llama_cpp.ref"):
        arguments(old)


@pytest.mark.parametrize(
    ("setting", "words"),
    [("enabled", ["--flash-attn"]), ("disabled", []), ("auto", [])],
)
def test_flash_attention_of_older_builds_is_a_switch(
    setting: str, words: list[str], tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, whole(f"flash_attention: {setting}"))
    line = arguments(instance_of(settings, options=frozenset({"--flash-attn"})))
    assert [word for word in line if word.startswith("--flash")] == words
    assert not {"on", "off", "auto"} & set(line)


def test_a_pool_of_an_older_build_is_not_capped(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, whole("kv_unified: true"))
    line = arguments(instance_of(settings, options=frozenset({"--kv-unified"})))
    assert "--kv-unified" in line
    assert "--kv-unified-per-slot" not in line


def with_dimensions(settings: HostSettings, architecture: str, *, mla: bool) -> Instance:
    cache = (CacheLayers(47, 576, 0 if mla else 512),)
    dimensions = Dimensions(architecture, 47, 202752, 2048, 154880, cache=cache)
    instance = instance_of(settings)
    object.__setattr__(instance.model, "dimensions", dimensions)
    return instance


def test_an_architecture_that_cannot_be_split_by_tensors_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, whole("split_mode: tensor"))
    with pytest.raises(ServerError, match=r"servers\.coder\.split_mode: .*deepseek2.*use layer"):
        arguments(with_dimensions(settings, "deepseek2", mla=True))
    assert "tensor" in arguments(with_dimensions(settings, "llama", mla=False))


def test_keys_and_values_that_lie_together_have_one_type(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, whole("cache_type_k: q8_0"))
    with pytest.raises(ServerError, match=r"cache_type_v: glm keeps keys and values together"):
        arguments(with_dimensions(settings, "deepseek2", mla=True))
    assert "q8_0" in arguments(with_dimensions(settings, "llama", mla=False))


def test_an_extra_argument_counts_as_managed_beside_its_own_setting_only() -> None:
    assert managed("--cache-ram", {}) is None
    assert managed("-cram", {"cache_ram": 0}) is not None
    assert managed("--no-kv-unified", {"kv_unified": True}) is not None
    assert managed("--port=1", {}) is not None


def test_no_spelling_belongs_to_two_options() -> None:
    spellings = [spelling for option in OPTIONS for spelling in option.spellings]
    assert len(spellings) == len(set(spellings))


def test_a_socket_has_no_port_and_no_network(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, whole("model: glm, unix_socket: true, socket_group: haproxy"))
    files = files_of(settings)
    assert "--port" not in files["unit"]
    assert "RuntimeDirectory=llama-server/coder\n" in files["unit"]
    assert "PrivateNetwork=yes\n" in files["unit"]
    stale = "ExecStartPre=-/bin/rm -f -- /run/llama-server/coder/llama.sock\n"
    assert stale in files["unit"]
    assert "--unix-socket /run/llama-server/coder/llama.sock" in files["wait-ready"]


# At most, in tenths, of systemd-analyze's 10: without a GPU, with CUDA, with Vulkan. A server that
# other machines reach has no list of addresses, which is 2; one on a socket has no network, which
# takes 4 off.
LOOPBACK = {"cpu": 10, "gpu": 12, "vulkan": 12}
EXPOSURES = {
    "port: 8888": 0,
    "host: 0.0.0.0, insecure: true": 2,
    "tls: {certificate: /c, key: /k}, api_key: {env: K}": 0,
    "model: glm, unix_socket: true, socket_group: web": -4,
    "slot_save: true": 0,
    ROUTER: 0,
}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("devices", LOOPBACK)
@pytest.mark.parametrize(
    "server", EXPOSURES, ids=["loopback", "open", "tls", "socket", "slots", "router"]
)
def test_a_unit_is_exposed_at_most_so_much_and_systemd_takes_it(
    tmp_path: Path, server: str, devices: str
) -> None:
    instance = replace(
        instance_of(settings_of(tmp_path, whole(server)), gpu=devices == "gpu"),
        vulkan=devices == "vulkan",
        binary="/bin/true",
    )
    unit = tmp_path / "llama-server.service"
    unit.write_text(render_unit(instance))

    def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["systemd-analyze", *arguments, str(unit)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    verified = analyze("verify", "--man=no", "--recursive-errors=no")
    assert (verified.returncode, verified.stderr) == (0, "")
    report = analyze("security", "--offline=true", "--no-pager").stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert exposure is not None, report
    assert round(float(exposure[1]) * 10) <= LOOPBACK[devices] + EXPOSURES[server], report


def test_a_certificate_is_a_credential_and_readiness_asks_over_https(tmp_path: Path) -> None:
    server = "tls: {certificate: /etc/c.pem, key: /etc/k.pem}"
    files = files_of(settings_of(tmp_path, whole(server)))
    assert "LoadCredential=tls-certificate:/etc/c.pem\n" in files["unit"]
    assert "LoadCredential=tls-key:/etc/k.pem\n" in files["unit"]
    assert "url=https://127.0.0.1:8888\n" in files["wait-ready"]
    assert "--insecure" in files["wait-ready"]


def test_slots_are_saved_before_a_stop_and_restored_after_a_start(tmp_path: Path) -> None:
    files = files_of(settings_of(tmp_path, whole("slot_save: true, parallel: 3")))
    unit = files["unit"]
    assert "StateDirectory=llama-server/coder llama-server/coder/slots\n" in unit
    assert "ExecStop=+-/bin/sh /etc/llama-server/coder/slots save\n" in unit
    ready, restore = unit.index("wait-ready\n"), unit.index("coder/slots restore")
    assert ready < restore
    assert "Environment=LLAMAHERD_SLOTS=" in unit
    assert "TimeoutStopSec=90\n" in unit
    assert 'while [ "$slot" -lt 3 ]' in files["slots"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("sampling: {temperature: 0.1}", True),
        ("cache_type_k: q8_0", False),
        ("context: 512", False),
    ],
)
def test_saved_slots_go_to_a_process_that_means_the_same_by_them(
    change: str, same: bool, tmp_path: Path
) -> None:
    def key(server: str) -> str:
        unit = files_of(settings_of(tmp_path, whole(server)))["unit"]
        return unit.partition("LLAMAHERD_SLOTS=")[2].partition("\n")[0]

    assert (key("slot_save: true") == key(f"slot_save: true, {change}")) is same


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("port: 8888", "http://127.0.0.1:8888/v1"),
        ("tls: {certificate: /c, key: /k}", "https://127.0.0.1:8888/v1"),
        (
            "tls: {certificate: /c, key: /k}, address: ai.example.com",
            "https://ai.example.com:8888/v1",
        ),
    ],
)
def test_opencode_asks_where_the_server_is(server: str, url: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, whole(server), "opencode: {users: [dev]}")
    assert settings.opencode is not None
    assert settings.opencode.providers[0].base_url == url


def test_opencode_offers_every_model_of_a_router_with_its_own_limit(tmp_path: Path) -> None:
    server = "{models: {glm: {}, small: {context: 8192}}, port: 8888, context: 65536}"
    settings = settings_of(tmp_path, server, "opencode: {users: [dev]}")
    assert settings.opencode is not None
    (provider,) = settings.opencode.providers
    assert [(model.id, model.context) for model in provider.models] == [
        ("glm", 65536),
        ("small", 8192),
    ]
    assert settings.opencode.default_model == "llama.cpp/glm"
    assert {model.name for model in settings.models} == {"glm", "small"}


def test_two_servers_of_a_host_get_the_gpus_that_each_was_given(tmp_path: Path) -> None:
    units = [
        render_unit(instance_of(settings_of(tmp_path, whole(f"gpus: [{gpu}]")), gpu=True))
        for gpu in (0, 1)
    ]
    for gpu, unit in enumerate(units):
        assert f"Environment=CUDA_VISIBLE_DEVICES={gpu}\n" in unit
        assert "Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID\n" in unit


def test_the_list_of_models_names_the_server_that_has_several(tmp_path: Path) -> None:
    settings_of(tmp_path, f"{{{ROUTER}}}")
    known = fleet_known(load_fleet(tmp_path / "fleet.yaml"))
    assert {model.name: model.servers for model in known} == {
        "glm": ("box/coder",),
        "small": ("box/coder",),
    }

"""One set of settings makes command line, unit and files, so that they can't disagree."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploys.common.shell import WordError
from deploys.common.systemd import unit_word
from deploys.llama_server.arguments import arguments
from deploys.llama_server.errors import ServerError
from deploys.llama_server.files import own_url, render_wait_ready, server_files
from deploys.llama_server.instance import Instance
from deploys.llama_server.unit import config_hash, render_unit
from inventories.addresses import is_loopback
from inventories.settings import Artifact, LoadMode, ModelSettings, Sampling, ServerSettings

MODEL = ModelSettings(
    name="glm",
    title="unsloth/GLM-4.7-Flash-GGUF UD-Q4_K_XL",
    directory="/var/lib/llamaherd/models/unsloth/GLM-4.7-Flash-GGUF/0d32489e",
    files=(Artifact("GLM-4.7-Flash-UD-Q4_K_XL.gguf", 17_520_169_312, "a" * 64, url="https://h/x"),),
)
SERVER = ServerSettings(name="coder", model="glm", port=8888, context=65536)
INSTANCE = Instance(
    server=SERVER,
    model=MODEL,
    binary="/opt/llama.cpp/b8146-0c1e570-abc/bin/llama-server",
    options=frozenset({"--load-mode", "--offline", "--cors-origins"}),
    gpu=True,
)


def with_server(**changes: object) -> Instance:
    return replace(INSTANCE, server=replace(SERVER, **changes))  # type: ignore[arg-type]


def pair(flag: str, instance: Instance) -> str:
    line = arguments(instance)
    return line[line.index(flag) + 1]


def test_context_is_what_one_session_gets() -> None:
    instance = with_server(context=32768, parallel=3)
    assert pair("--ctx-size", instance) == str(3 * 32768)
    assert pair("--parallel", instance) == "3"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"threads": 8}, ["--threads", "8"]),
        ({"host": "0.0.0.0"}, ["--host", "0.0.0.0"]),
        ({"port": 9000}, ["--port", "9000"]),
        ({"op_offload": False}, ["--no-op-offload"]),
        ({"jinja": False}, ["--no-jinja"]),
        ({"jinja": True}, ["--jinja"]),
        ({"load_mode": "none"}, ["--load-mode", "none"]),
        ({"extra_args": ("--metrics",)}, ["--metrics"]),
        ({"sampling": Sampling(temperature=0.7)}, ["--temp", "0.7"]),
        ({"sampling": Sampling(top_p=1.0, min_p=0.01)}, ["--top-p", "1.0", "--min-p", "0.01"]),
        ({"sampling": Sampling(top_k=40)}, ["--top-k", "40"]),
        ({"sampling": Sampling(repeat_penalty=1.1)}, ["--repeat-penalty", "1.1"]),
    ],
)
def test_each_setting_reaches_the_command_line(
    changes: dict[str, object], expected: list[str]
) -> None:
    line = arguments(with_server(**changes))
    assert " ".join(expected) in " ".join(line)


def test_what_is_not_set_is_left_to_llama_cpp() -> None:
    line = arguments(INSTANCE)
    assert not {"--temp", "--load-mode", "--no-op-offload", "--mmproj", "--api-key-file"} & set(
        line
    )


@pytest.mark.parametrize(
    ("mode", "flags"),
    [("none", ["--no-mmap"]), ("mmap", []), ("mlock", ["--no-mmap", "--mlock"])],
)
def test_older_builds_get_the_flags_that_they_know(mode: LoadMode, flags: list[str]) -> None:
    old = replace(with_server(load_mode=mode), options=frozenset({"--mlock", "--no-mmap"}))
    line = arguments(old)
    assert [flag for flag in line if flag in ("--load-mode", "--no-mmap", "--mlock")] == flags


def test_an_older_build_that_lacks_a_mode_is_named() -> None:
    old = replace(with_server(load_mode="dio"), options=frozenset({"--mlock"}))
    with pytest.raises(ServerError, match=r"servers\.coder\.load_mode.*newer llama_cpp\.ref"):
        arguments(old)


@pytest.mark.parametrize("argument", ["--port=1", "-c", "--api-key", "--model", "--no-mmap"])
def test_extra_arguments_cannot_contradict_the_fleet_file(argument: str) -> None:
    with pytest.raises(ServerError, match=r"servers\.coder\.extra_args.*set from the fleet file"):
        arguments(with_server(extra_args=(argument,)))


@pytest.mark.parametrize("argument", ["--tools", "--agent"])
def test_arguments_that_give_clients_the_host_are_refused(argument: str) -> None:
    with pytest.raises(ServerError, match="lets clients act on the host"):
        arguments(with_server(extra_args=(argument,)))


def test_the_key_is_a_credential_and_in_no_unit() -> None:
    instance = replace(INSTANCE, api_key="s3cret-s3cret")
    unit = render_unit(instance)
    assert "s3cret" not in unit
    assert "--api-key-file ${CREDENTIALS_DIRECTORY}/api-key" in unit
    assert "LoadCredential=api-key:/etc/llama-server/coder/api-key" in unit
    key = server_files(instance)[-1]
    assert (key.mode, key.secret, key.content) == ("600", True, "s3cret-s3cret\n")


def test_without_a_key_there_is_no_credential() -> None:
    assert "api-key" not in render_unit(INSTANCE)
    assert len(server_files(INSTANCE)) == 2


def test_the_hash_follows_everything_that_shapes_the_process() -> None:
    other_file = replace(MODEL, files=(replace(MODEL.files[0], sha256="b" * 64),))
    hashes = {
        config_hash(render_unit(instance))
        for instance in (
            INSTANCE,
            with_server(context=1024),
            with_server(gpus=("0",)),
            replace(INSTANCE, binary="/opt/llama.cpp/other/bin/llama-server"),
            replace(INSTANCE, model=other_file),
        )
    }
    assert len(hashes) == 5
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in hashes)
    assert render_unit(INSTANCE) == render_unit(INSTANCE)


def test_gpus_are_chosen_by_the_environment() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in render_unit(INSTANCE)
    assert "Environment=CUDA_VISIBLE_DEVICES=0,2\n" in render_unit(with_server(gpus=("0", "2")))
    assert "CUDA_VISIBLE_DEVICES=\n" in render_unit(with_server(gpus=())).replace('"', "")


def test_a_gpu_host_sees_its_devices_and_a_cpu_host_sees_none() -> None:
    assert "DeviceAllow=char-nvidia-uvm rw" in render_unit(INSTANCE)
    cpu = render_unit(replace(INSTANCE, gpu=False))
    assert "PrivateDevices=yes" in cpu
    assert "nvidia-modprobe" not in cpu


def test_a_loopback_server_talks_to_loopback_only() -> None:
    assert "IPAddressAllow=localhost" in render_unit(INSTANCE)
    assert "IPAddressDeny" not in render_unit(with_server(host="0.0.0.0"))


def test_locking_memory_gets_the_limit_that_it_needs() -> None:
    assert "LimitMEMLOCK=infinity" in render_unit(with_server(load_mode="mlock"))
    assert "LimitMEMLOCK" not in render_unit(INSTANCE)


@pytest.mark.parametrize(
    ("host", "loopback", "address"),
    [
        ("127.0.0.1", True, "127.0.0.1"),
        ("localhost", True, "localhost"),
        ("LOCALHOST", True, "LOCALHOST"),
        ("::1", True, "[::1]"),
        ("0.0.0.0", False, "127.0.0.1"),
        ("::", False, "[::1]"),
        ("10.0.0.7", False, "10.0.0.7"),
    ],
)
def test_a_bound_address_is_reached_as(host: str, loopback: bool, address: str) -> None:
    assert is_loopback(host) is loopback
    assert own_url(with_server(host=host).server) == f"http://{address}:8888"
    script = render_wait_ready(with_server(host=host)).replace("'", "")
    assert f"url=http://{address}:8888\n" in script


def test_the_readiness_check_reads_the_key_where_systemd_252_lets_it() -> None:
    # Credentials are hidden from ExecStartPost there: in the sandbox it would ask without a key,
    # and a server with one would never become ready.
    assert "ExecStartPost=+/bin/sh /etc/llama-server/coder/wait-ready" in render_unit(INSTANCE)
    script = render_wait_ready(INSTANCE)
    assert "key=/etc/llama-server/coder/api-key" in script.replace("'", "")
    assert "CREDENTIALS_DIRECTORY" not in script


@pytest.mark.parametrize("value", ["a\nb", "a\0", "\x1b"])
def test_an_exec_line_takes_no_control_characters(value: str) -> None:
    with pytest.raises(WordError):
        unit_word(value)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    for number, instance in enumerate(
        (INSTANCE, replace(INSTANCE, gpu=False, api_key="k"), with_server(load_mode="mlock"))
    ):
        instance = replace(instance, binary="/bin/true")
        unit = tmp_path / f"llama-server-{number}.service"
        unit.write_text(render_unit(instance))
        result = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")


@given(st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", codec="utf-8")))
def test_any_word_survives_systemds_quoting(text: str) -> None:
    quoted = unit_word(text)
    assert _unquote(quoted) == text


def _unquote(quoted: str) -> str:
    """systemd.service(5), "Command lines", for what unit_word writes."""
    if quoted.startswith('"') and quoted.endswith('"') and len(quoted) > 1:
        quoted = re.sub(r"\\(.)", r"\1", quoted[1:-1])
    return quoted.replace("%%", "%").replace("$$", "$")

"""Servers of each kind on a real host: what they answer, what they keep, what they may do."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import sys
from pathlib import Path

import pytest
from converge_support import changed
from servers_lab_support import lay_certificate

sys.path.insert(0, str(Path(__file__).parents[1] / "deploys"))
from servers_support import instance_of, settings_of
from test_llama_options import recorded

from deploys.llama_server.arguments import arguments

pytestmark = pytest.mark.lab

KINDS = ("plain", "secure", "keeper", "hidden", "several")
MODEL = "/var/lib/llamaherd/models/demo/SmolLM2-135M-Instruct-GGUF/*/*.gguf"


def binary(site) -> str:
    return site.ssh("ls -d /opt/llama.cpp/b*/bin/llama-server")


def invocation(site, name: str) -> str:
    return site.ssh(f"systemctl show -P InvocationID llama-server@{name}")


def test_every_server_and_each_model_of_the_router_answers_as_declared(site) -> None:
    result = site.run("llamaherd", "verify", str(site.fleet), "--json")
    assert result.returncode == 0, result.stdout[-3000:]
    checks = {
        (finding["subject"], finding["check"])
        for host in json.loads(result.stdout)["hosts"]
        for finding in host["checks"]
    }
    assert {("server secure", "certificate"), ("server several", "models")} <= checks
    for model in ("smollm2", "twin"):
        for check in ("model", "context", "slots", "completion"):
            assert (f"server several/{model}", check) in checks
    assert ("server hidden", "completion") in checks


def test_a_second_converge_changes_nothing(site) -> None:
    again = site.converge("--json")
    assert changed(again) == [], again.stderr[-5000:]


def test_a_renewed_certificate_reaches_the_one_process_that_shows_it(site) -> None:
    before = {name: invocation(site, name) for name in KINDS}
    lay_certificate(site)
    drift = site.run("llamaherd", "drift", str(site.fleet), "--json")
    assert drift.returncode == 2, drift.stdout + drift.stderr
    assert "started with another tls-certificate, tls-key" in drift.stdout
    assert site.converge().returncode == 0
    after = {name: invocation(site, name) for name in KINDS}
    assert {name for name in KINDS if before[name] != after[name]} == {"secure"}
    assert changed(site.converge("--json")) == []


def test_a_session_survives_a_restart(site) -> None:
    text = "Tell me of " + " ".join(f"number {n} and its friends," for n in range(60))
    body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 2})
    ask = f"curl -s -d '{body}' http://127.0.0.1:8803/v1/chat/completions"
    first = json.loads(site.ssh(ask))["timings"]
    assert first["prompt_n"] > 300
    site.ssh("systemctl restart llama-server@keeper")
    again = json.loads(site.ssh(ask))["timings"]
    assert again["cache_n"] >= first["prompt_n"] - 8
    owner = site.ssh("stat -c '%U %a' /var/lib/llama-server/keeper /var/lib/llama-server/keeper/*")
    assert set(owner.splitlines()) == {"llama-server 700"}
    # What was restored is gone: a file is there only while the server isn't.
    assert site.ssh("ls /var/lib/llama-server/keeper/slots/") == ""


def test_a_sessions_file_that_was_cut_off_does_not_hold_up_a_start(site) -> None:
    site.ssh("systemctl stop llama-server@keeper")
    assert site.ssh("ls /var/lib/llama-server/keeper/slots/").startswith("slot-")
    site.ssh("truncate -s 999 /var/lib/llama-server/keeper/slots/slot-*")
    site.ssh("systemctl start llama-server@keeper")
    assert site.ssh("curl -s http://127.0.0.1:8803/health") == '{"status":"ok"}'
    assert site.ssh("systemctl show -P NRestarts llama-server@keeper") == "0"


def test_a_socket_is_its_groups_alone_and_survives_a_kill(site) -> None:
    path = "/run/llama-server/hidden/llama.sock"
    ask = f"curl -s --unix-socket {path} http://localhost/health"
    assert site.ssh(f"runuser -u www-data -- {ask}") == '{"status":"ok"}'
    assert site.ssh(f"runuser -u nobody -- {ask}") == ""
    assert "8080" not in site.ssh("ss -ltn")
    site.ssh("systemctl kill -s KILL llama-server@hidden; sleep 1")
    site.ssh("systemctl restart llama-server@hidden")
    assert site.ssh(f"runuser -u www-data -- {ask}") == '{"status":"ok"}'


def test_the_recorded_options_are_those_of_a_real_llama_server(site) -> None:
    found: dict[str, tuple[set[str], list[str]]] = {}
    entry: tuple[set[str], list[str]] = (set(), [])
    for line in site.ssh(f"{binary(site)} --help 2>&1").splitlines():
        head = re.match(r"(--?\w[\w.-]*(?:,\s+--?\w[\w.-]*)*)", line)
        if head:
            entry = (set(re.split(r",\s+", head[1])), [])
            found |= dict.fromkeys(entry[0], entry)
        entry[1].extend(re.findall(r"\(env: (\w+)\)", line))
    read = {name: (frozenset(words), (*env, "")[0]) for name, (words, env) in found.items()}
    assert read == recorded()


SETTINGS = [
    (
        "flash_attention: enabled, cache_type_k: q8_0, cache_type_v: q8_0, cache_ram: 7, "
        "cache_reuse: 64, kv_unified: true",
        ["flash_attn .*= enabled", r"K \(q8_0\)", r"V \(q8_0\)", "size limit: 7 MiB"],
        {"n_ctx": 512, "total_slots": 2},
    ),
    (
        "flash_attention: disabled, kv_unified: false, swa_full: true, batch_size: 300, "
        "ubatch_size: 200, threads: 2, threads_batch: 1",
        ["flash_attn .*= disabled", "n_batch .*= 300", "n_ubatch .*= 200", "n_threads_batch = 1"],
        {"n_ctx": 512},
    ),
    (
        "gpu_layers: 3, split_mode: layer, tensor_split: [3, 1], main_gpu: 0, cpu_moe: true, "
        "numa: isolate",
        [],
        {"n_ctx": 512},
    ),
    ("n_cpu_moe: 2, reasoning: disabled, reasoning_format: deepseek", [], {"n_ctx": 512}),
    (
        "reasoning_budget: 100, chat_template: chatml, chat_template_kwargs: {deep: true}, "
        "metrics: true",
        [r"example_format: '<\|im_start\|>system"],
        {"n_ctx": 512},
    ),
    ("chat_template: zephyr, jinja: false", [r"example_format: '<\|system\|>"], {"n_ctx": 512}),
    ("sleep_idle_seconds: 1, load_mode: none", [], {"is_sleeping": True}),
]


@pytest.mark.parametrize(("settings", "logged", "said"), SETTINGS)
def test_llama_server_takes_the_settings_and_follows_them(
    site, tmp_path: Path, settings: str, logged: list[str], said: dict[str, object]
) -> None:
    server = f"{{model: glm, port: 8899, context: 512, parallel: 2, {settings}}}"
    line = arguments(instance_of(settings_of(tmp_path, server)))
    line[line.index("--model") + 1] = site.ssh(f"ls {MODEL} | head -n 1")
    words = shlex.join([binary(site), *line, "--verbosity", "4"])
    unit = f"taken-{secrets.token_hex(3)}"
    site.ssh(f"systemd-run --quiet --collect --unit={unit} -- {words}")
    try:
        props = json.loads(
            site.ssh(
                "for i in $(seq 120); do "
                "curl -sf http://127.0.0.1:8899/health >/dev/null && break; "
                f"systemctl is-active -q {unit} || break; sleep 0.5; done; sleep 3; "
                f"curl -s http://127.0.0.1:8899/props || journalctl -n 5 -u {unit}"
            )
        )
        log = site.ssh(f"journalctl --no-pager -o cat -u {unit}")
    finally:
        site.ssh(f"systemctl stop {unit}")
    values = props | {"n_ctx": props["default_generation_settings"]["n_ctx"]}
    assert {name: values[name] for name in said} == said
    for text in logged:
        assert re.search(text, log), text

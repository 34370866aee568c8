"""Each key of the fleet file shows its effect: on a unit, a command, a file, or what is asked.

One line a key: a value, the place where it shows, and words that are there with the key and not
without it. A key of the schema that has no line fails, and so does a line without a key. To add
one, see :class:`effects_support.Effect`; a path is that of docs/reference.md.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from effects_support import (
    BUILD,
    CLAUDE,
    CONNECTION,
    CUDA,
    DRIVER,
    INSTALL,
    JOBS,
    LOCK,
    MEMORY,
    MODELS,
    OPENCODE,
    PACKAGES,
    PROBLEMS,
    SERVER,
    TIMER,
    Effect,
    shown,
    written,
)
from fleet_support import ROOT

from schemas import reference
from schemas.validate import load_schema, resolve

FLEET = load_schema("fleet.schema.json")
LOCKED = "tests/lock/test_lock_effects.py::"
SHA = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

# Settings that others need beside them.
ARCHIVE = (
    "llama_cpp: {ref: null, commit: 0c1e570, build_number: 7, "
    "archive: {url: 'https://example.org/a.tgz', sha256: '" + SHA + "'}}"
)
URL = "models: {glm: {hub: null, url: 'https://example.org/m.gguf', sha256: '" + SHA + "'}}"
ADAPTER = (
    "models: {glm: {adapters: {reviewer: {url: 'https://example.org/a.gguf', sha256: '"
    + SHA
    + "'}}}}"
)
HUB_ADAPTER = "models: {glm: {adapters: {reviewer: {hub: {repo: org/lora-GGUF, file: lora.gguf}}}}}"
DRAFT = "servers: {coder: {draft: {model: other}}}"
ROUTER = "servers: {coder: {model: null, models: {glm: {}, other: {}}}}"
TLS = "servers: {coder: {tls: {certificate: /c.pem, key: /k.pem}}}"
NO_PORT = "{opencode: null, servers: {coder: {port: null}}}"
SOCKET = "{opencode: null, servers: {coder: {port: null, unix_socket: true}}}"
CONTROLLER = "controller: true"
MANAGED = "driver: {manage: true}"
GPU = "gpus: [{name: A Card, memory: 8G}]"
KNOWN = "models: {glm: {hub: null, catalogue: glm-4.7-flash}}"
PROXY = "proxy: {http: 'http://a.example.com:3128'}"
OFFICE = "opencode: {default: office, providers: {office: {server: coder}}}"

EFFECTS = {
    "version": Effect(2, PROBLEMS, "version: must be 1, is 2"),
    "hub.endpoint": Effect("https://mirror.example.com", LOCK, "https://mirror.example.com"),
    "hub.token": Effect({"env": "SECRET_OF_TEST"}, MODELS, "token hunter2"),
    # Models
    "models.NAME.catalogue": Effect(
        "glm-4.7-flash",
        LOCK,
        "unsloth/GLM-4.7-Flash-GGUF",
        top="models: {glm: {hub: null}}",
    ),
    "models.NAME.url": Effect("https://example.org/n.gguf", MODELS, "example.org/n.gguf", top=URL),
    "models.NAME.path": Effect(
        "n.gguf", MODELS, "/models/path/glm/", top="models: {glm: {hub: null, sha256: " + SHA + "}}"
    ),
    "models.NAME.sha256": Effect("a" * 64, MODELS, "a" * 64, top=URL),
    "models.NAME.mmproj": Effect(True, SERVER, "--mmproj /var/lib/llamaherd/models/org/glm-GGUF/"),
    "models.NAME.sampling": Effect({"top_k": 41}, SERVER, "--top-k 41"),
    "models.NAME.reasoning": Effect(True, OPENCODE, '"interleaved"'),
    "models.NAME.interleaved": Effect(
        "reasoning_details", OPENCODE, '"reasoning_details"', top="models: {glm: {reasoning: true}}"
    ),
    "models.NAME.tool_call": Effect(False, OPENCODE, '"tool_call": false'),
    "models.NAME.llama_cpp_build": Effect(9999, PROBLEMS, "needs b9999 or newer"),
    "models.NAME.title": Effect("Our GLM", OPENCODE, '"name": "Our GLM"'),
    "models.NAME.chat_template_file": Effect(
        "glm.jinja", SERVER, "--chat-template-file /etc/llama-server/coder/chat-template.jinja"
    ),
    "models.NAME.adapters.NAME.hub.repo": Effect("org/new", MODELS, "/org/new/", top=HUB_ADAPTER),
    "models.NAME.adapters.NAME.hub.file": Effect("n.gguf", MODELS, "/n.gguf", top=HUB_ADAPTER),
    "models.NAME.adapters.NAME.hub.revision": Effect(
        "v2", LOCK, '"revision": "v2"', top=HUB_ADAPTER
    ),
    "models.NAME.adapters.NAME.hub.endpoint": Effect(
        "https://own.example.com", MODELS, "own.example.com/org/lora", top=HUB_ADAPTER
    ),
    "models.NAME.adapters.NAME.hub.token": Effect(
        {"env": "SECRET_OF_TEST"}, MODELS, "token hunter2", top=HUB_ADAPTER
    ),
    "models.NAME.adapters.NAME.url": Effect(
        "https://example.org/l.gguf", MODELS, "example.org/l.gguf", top=ADAPTER
    ),
    "models.NAME.adapters.NAME.path": Effect(
        "l.gguf", LOCK, '"path": "l.gguf"', top=ADAPTER.replace("url:", "path:")
    ),
    "models.NAME.adapters.NAME.sha256": Effect("a" * 64, MODELS, "a" * 64, top=ADAPTER),
    "models.NAME.adapters.NAME.scale": Effect(0.25, SERVER, ".gguf:0.25", top=ADAPTER),
    "models.NAME.hub.repo": Effect("org/new-GGUF", MODELS, "/models/org/new-GGUF/"),
    "models.NAME.hub.quant": Effect("Q6_K", MODELS, "model-Q6_K.gguf"),
    "models.NAME.hub.file": Effect(
        "m.gguf", MODELS, "/m.gguf", top="models: {glm: {hub: {quant: null}}}"
    ),
    "models.NAME.hub.revision": Effect("v2", LOCK, '"revision": "v2"'),
    "models.NAME.hub.token": Effect({"env": "SECRET_OF_TEST"}, MODELS, "token hunter2"),
    "models.NAME.hub.endpoint": Effect("https://own.example.com", MODELS, "own.example.com/org"),
    # Where hosts get their settings from
    "groups.NAME.groups": Effect(["more"], SERVER, "--threads 77", given="groups: [team]"),
    "hosts.NAME.groups": Effect(["more"], SERVER, "--threads 77"),
    "controller": Effect(True, TIMER, "OnCalendar=daily"),
    # SSH
    "ssh.hostname": Effect("10.0.0.11", CONNECTION, '"ssh_hostname": "10.0.0.11"'),
    "ssh.user": Effect("ops", CONNECTION, '"_sudo": true'),
    "ssh.port": Effect(2222, CONNECTION, '"ssh_port": 2222'),
    "ssh.key": Effect("keys/fleet", CONNECTION, '/keys/fleet"'),
    "ssh.known_hosts": Effect("hosts", CONNECTION, '"ssh_known_hosts_file": "/'),
    "ssh.config_file": Effect("ssh_config", CONNECTION, '"ssh_config_file": "/'),
    "ssh.host_key_checking": Effect("accept-new", CONNECTION, "accept-new"),
    "ssh.password": Effect({"env": "SECRET_OF_TEST"}, CONNECTION, '"ssh_password": "hunter2"'),
    "ssh.sudo_password": Effect({"env": "SECRET_OF_TEST"}, CONNECTION, '_password": "hunter2"'),
    # CUDA
    "cuda.provider": Effect("none", SERVER, "PrivateDevices=yes", given="cuda: {version: null}"),
    "cuda.version": Effect("13.1", BUILD, "/usr/local/cuda-13.1/bin/nvcc"),
    "cuda.path": Effect(
        "/opt/other", BUILD, "/opt/other/bin/nvcc", given="cuda: {provider: existing, path: /opt/x}"
    ),
    "cuda.repository.url": Effect("https://cuda.example.com", CUDA, "https://cuda.example.com/"),
    "cuda.repository.key": Effect("own.pub", CUDA, "/own.pub"),
    "cuda.repository.distributions": Effect(["rhel9"], LOCK, '"distributions": ["rhel9"]'),
    "cuda.profile": Effect("full", LOCK, '"profile": "full"'),
    # The driver, GPUs, proxy
    "driver.manage": Effect(True, DRIVER, "nvidia-open-580"),
    "driver.branch": Effect(570, DRIVER, "nvidia-open-570", given=MANAGED),
    "driver.modules": Effect("proprietary", DRIVER, "cuda-drivers-580", given=MANAGED),
    "gpus.N.name": Effect("My Card", MEMORY, "My Card", given=GPU, top=KNOWN),
    "gpus.N.memory": Effect("9G", MEMORY, "9.0 GiB", given=GPU, top=KNOWN),
    "gpus.N.count": Effect(2, MEMORY, "GPU 1 (A Card)", given=GPU, top=KNOWN),
    "gpus.N.uuid": Effect(
        "GPU-1",
        MEMORY,
        "server coder would need",
        given=GPU + "\nservers: {coder: {gpus: [GPU-1]}}",
        top=KNOWN,
    ),
    "proxy.http": Effect("http://a.example.com:3128", JOBS, "http_proxy=http://a.example.com"),
    "proxy.https": Effect("http://b.example.com:1", JOBS, "https_proxy=http://b.", given=PROXY),
    "proxy.no_proxy": Effect(["in.example.com"], JOBS, "in.example.com", given=PROXY),
    # llama.cpp
    "llama_cpp.backends": Effect(["vulkan"], BUILD, "-DGGML_VULKAN=ON"),
    "llama_cpp.compiler_cache": Effect("sccache", BUILD, "=sccache"),
    "llama_cpp.flash_attention_quants": Effect(["q8_0-q8_0"], BUILD, "FA_QUANTS=q8_0-q8_0"),
    "llama_cpp.static": Effect(True, BUILD, "-DGGML_STATIC=ON"),
    "llama_cpp.rpc": Effect(True, BUILD, "-DGGML_RPC=ON"),
    "servers.NAME.llama_cpp": Effect({"cmake": {"GGML_LTO": True}}, BUILD, "-DGGML_LTO=ON"),
    "servers.NAME.cuda": Effect({"version": "12.9"}, CUDA, "cuda-nvcc-12-9"),
    "llama_cpp.repository": Effect("https://git.example.com/x", BUILD, "https://git.example.com/x"),
    "llama_cpp.ref": Effect("b9000", LOCK, '"ref": "b9000"'),
    "llama_cpp.archive.url": Effect(
        "https://example.org/b.tgz", BUILD, "https://example.org/b.tgz", given=ARCHIVE
    ),
    "llama_cpp.archive.path": Effect(
        "src.tgz", LOCK, '"path": "src.tgz"', given=ARCHIVE.replace("url:", "path:")
    ),
    "llama_cpp.archive.sha256": Effect("b" * 64, BUILD, "b" * 64, given=ARCHIVE),
    "llama_cpp.archive.subdirectory": Effect("src/l", BUILD, "--strip-components=2", given=ARCHIVE),
    "llama_cpp.commit": Effect("abcdef1", BUILD, "-DLLAMA_BUILD_COMMIT=abcdef1", given=ARCHIVE),
    "llama_cpp.build_number": Effect(8, BUILD, "-DLLAMA_BUILD_NUMBER=8", given=ARCHIVE),
    "llama_cpp.targets": Effect(["llama-bench"], BUILD, "-j 64 llama-bench\n"),
    "llama_cpp.architectures": Effect(["120a"], BUILD, "ARCHITECTURES=120a-real"),
    "llama_cpp.native": Effect(False, BUILD, "-DGGML_NATIVE=OFF"),
    "llama_cpp.cmake": Effect({"GGML_RPC": True}, BUILD, "-DGGML_RPC=ON"),
    "llama_cpp.jobs": Effect(3, BUILD, " -j 3 "),
    "llama_cpp.ccache": Effect(True, PACKAGES, "ccache"),
    # Servers
    "servers.NAME.model": Effect("other", SERVER, "--alias other"),
    "servers.NAME.port": Effect(9999, SERVER, "--port 9999"),
    "servers.NAME.host": Effect("127.0.0.2", SERVER, "--host 127.0.0.2"),
    "servers.NAME.address": Effect(
        "proxy.example.com:80",
        OPENCODE,
        "http://proxy.example.com:80/v1",
        given="servers: {coder: {host: 0.0.0.0, insecure: true}}",
        top="hosts: {desk: {opencode: {users: [dev], default: gpu/coder}}}",
        host="desk",
    ),
    "servers.NAME.context": Effect(8192, SERVER, "--ctx-size 16384"),
    "servers.NAME.parallel": Effect(3, SERVER, "--parallel 3"),
    "servers.NAME.threads": Effect(7, SERVER, "--threads 7"),
    "servers.NAME.load_mode": Effect("mlock", SERVER, "LimitMEMLOCK=infinity"),
    "servers.NAME.op_offload": Effect(False, SERVER, "--no-op-offload"),
    "servers.NAME.jinja": Effect(False, SERVER, "--no-jinja"),
    "servers.NAME.draft.model": Effect("other", SERVER, "--spec-draft-model /var/lib/llamaherd"),
    "servers.NAME.draft.type": Effect("draft-mtp", SERVER, "--spec-type draft-mtp", given=DRAFT),
    "servers.NAME.draft.max": Effect(9, SERVER, "--spec-draft-n-max 9", given=DRAFT),
    "servers.NAME.draft.min": Effect(3, SERVER, "--spec-draft-n-min 3", given=DRAFT),
    "servers.NAME.draft.p_min": Effect(0.6, SERVER, "--spec-draft-p-min 0.6", given=DRAFT),
    "servers.NAME.draft.gpu_layers": Effect(7, SERVER, "--spec-draft-ngl 7", given=DRAFT),
    "servers.NAME.chat_template_file": Effect("own.jinja", SERVER, "/own.jinja"),
    "servers.NAME.sampling": Effect({"temperature": 0.3}, SERVER, "--temp 0.3"),
    "servers.NAME.gpus": Effect([1], SERVER, "CUDA_VISIBLE_DEVICES=1"),
    "servers.NAME.api_key": Effect({"env": "SECRET_OF_TEST"}, SERVER, "api-key 600\nhunter2"),
    "servers.NAME.insecure": Effect(
        True, SERVER, "--host 0.0.0.0", given="servers: {coder: {host: 0.0.0.0}}"
    ),
    "servers.NAME.extra_args": Effect(["--verbose"], SERVER, "--verbose"),
    "servers.NAME.ready_timeout": Effect(77, SERVER, "TimeoutStartSec=77"),
    "servers.NAME.flash_attention": Effect("disabled", SERVER, "--flash-attn off"),
    "servers.NAME.cache_type_k": Effect("q8_0", SERVER, "--cache-type-k q8_0"),
    "servers.NAME.cache_type_v": Effect("q8_0", SERVER, "--cache-type-v q8_0"),
    "servers.NAME.cache_ram": Effect(512, SERVER, "--cache-ram 512"),
    "servers.NAME.cache_reuse": Effect(256, SERVER, "--cache-reuse 256"),
    "servers.NAME.kv_unified": Effect(True, SERVER, "--kv-unified"),
    "servers.NAME.swa_full": Effect(True, SERVER, "--swa-full"),
    "servers.NAME.sleep_idle_seconds": Effect(60, SERVER, "--sleep-idle-seconds 60"),
    "servers.NAME.gpu_layers": Effect(40, SERVER, "--n-gpu-layers 40"),
    "servers.NAME.split_mode": Effect("row", SERVER, "--split-mode row"),
    "servers.NAME.tensor_split": Effect([3, 1], SERVER, "--tensor-split 3,1"),
    "servers.NAME.main_gpu": Effect(1, SERVER, "--main-gpu 1"),
    "servers.NAME.cpu_moe": Effect(True, SERVER, "--cpu-moe"),
    "servers.NAME.n_cpu_moe": Effect(9, SERVER, "--n-cpu-moe 9"),
    "servers.NAME.batch_size": Effect(4096, SERVER, "--batch-size 4096"),
    "servers.NAME.ubatch_size": Effect(256, SERVER, "--ubatch-size 256"),
    "servers.NAME.threads_batch": Effect(5, SERVER, "--threads-batch 5"),
    "servers.NAME.numa": Effect("isolate", SERVER, "--numa isolate"),
    "servers.NAME.reasoning": Effect("disabled", SERVER, "--reasoning off"),
    "servers.NAME.reasoning_format": Effect("deepseek", SERVER, "--reasoning-format deepseek"),
    "servers.NAME.reasoning_budget": Effect(99, SERVER, "--reasoning-budget 99"),
    "servers.NAME.chat_template": Effect("chatml", SERVER, "--chat-template chatml"),
    "servers.NAME.chat_template_kwargs": Effect({"deep": True}, SERVER, 'deep\\": true'),
    "servers.NAME.slot_save": Effect(
        True, SERVER, "ExecStop=+-/bin/sh /etc/llama-server/coder/slots save"
    ),
    "servers.NAME.metrics": Effect(True, SERVER, "--metrics"),
    "servers.NAME.tls.certificate": Effect(
        "/new.pem", SERVER, "tls-certificate:/new.pem", given=TLS
    ),
    "servers.NAME.tls.key": Effect("/new.pem", SERVER, "tls-key:/new.pem", given=TLS),
    "servers.NAME.unix_socket": Effect(
        True, SERVER, "--host /run/llama-server/coder", given=NO_PORT
    ),
    "servers.NAME.socket_group": Effect(
        "web", SERVER, "chgrp -h -- web /run/llama-server/coder", given=SOCKET
    ),
    "servers.NAME.models_max": Effect(1, SERVER, "--models-max 1", given=ROUTER),
    "servers.NAME.models.NAME.context": Effect(8192, SERVER, "ctx-size = 16384", given=ROUTER),
    "servers.NAME.models.NAME.parallel": Effect(3, SERVER, "parallel = 3", given=ROUTER),
    "servers.NAME.models.NAME.threads": Effect(7, SERVER, "threads = 7", given=ROUTER),
    "servers.NAME.models.NAME.load_mode": Effect("dio", SERVER, "load-mode = dio", given=ROUTER),
    "servers.NAME.models.NAME.op_offload": Effect(
        False, SERVER, "op-offload = false", given=ROUTER
    ),
    "servers.NAME.models.NAME.jinja": Effect(False, SERVER, "jinja = false", given=ROUTER),
    "servers.NAME.models.NAME.sampling": Effect({"top_k": 41}, SERVER, "top-k = 41", given=ROUTER),
    "servers.NAME.models.NAME.load_on_startup": Effect(
        True, SERVER, "load-on-startup = true", given=ROUTER
    ),
    "servers.NAME.models.NAME.flash_attention": Effect(
        "disabled", SERVER, "flash-attn = off", given=ROUTER
    ),
    "servers.NAME.models.NAME.cache_type_k": Effect(
        "q8_0", SERVER, "cache-type-k = q8_0", given=ROUTER
    ),
    "servers.NAME.models.NAME.cache_type_v": Effect(
        "q8_0", SERVER, "cache-type-v = q8_0", given=ROUTER
    ),
    "servers.NAME.models.NAME.cache_ram": Effect(512, SERVER, "cache-ram = 512", given=ROUTER),
    "servers.NAME.models.NAME.cache_reuse": Effect(256, SERVER, "cache-reuse = 256", given=ROUTER),
    "servers.NAME.models.NAME.kv_unified": Effect(True, SERVER, "kv-unified = true", given=ROUTER),
    "servers.NAME.models.NAME.swa_full": Effect(True, SERVER, "swa-full = true", given=ROUTER),
    "servers.NAME.models.NAME.sleep_idle_seconds": Effect(
        60, SERVER, "sleep-idle-seconds = 60", given=ROUTER
    ),
    "servers.NAME.models.NAME.gpu_layers": Effect(40, SERVER, "n-gpu-layers = 40", given=ROUTER),
    "servers.NAME.models.NAME.split_mode": Effect("row", SERVER, "split-mode = row", given=ROUTER),
    "servers.NAME.models.NAME.tensor_split": Effect(
        [3, 1], SERVER, "tensor-split = 3,1", given=ROUTER
    ),
    "servers.NAME.models.NAME.main_gpu": Effect(1, SERVER, "main-gpu = 1", given=ROUTER),
    "servers.NAME.models.NAME.cpu_moe": Effect(True, SERVER, "cpu-moe = true", given=ROUTER),
    "servers.NAME.models.NAME.n_cpu_moe": Effect(9, SERVER, "n-cpu-moe = 9", given=ROUTER),
    "servers.NAME.models.NAME.batch_size": Effect(4096, SERVER, "batch-size = 4096", given=ROUTER),
    "servers.NAME.models.NAME.ubatch_size": Effect(256, SERVER, "ubatch-size = 256", given=ROUTER),
    "servers.NAME.models.NAME.threads_batch": Effect(5, SERVER, "threads-batch = 5", given=ROUTER),
    "servers.NAME.models.NAME.numa": Effect("isolate", SERVER, "numa = isolate", given=ROUTER),
    "servers.NAME.models.NAME.reasoning": Effect(
        "disabled", SERVER, "reasoning = off", given=ROUTER
    ),
    "servers.NAME.models.NAME.reasoning_format": Effect(
        "deepseek", SERVER, "reasoning-format = deepseek", given=ROUTER
    ),
    "servers.NAME.models.NAME.reasoning_budget": Effect(
        99, SERVER, "reasoning-budget = 99", given=ROUTER
    ),
    "servers.NAME.models.NAME.chat_template": Effect(
        "chatml", SERVER, "chat-template = chatml", given=ROUTER
    ),
    "servers.NAME.models.NAME.chat_template_kwargs": Effect(
        {"deep": True}, SERVER, '{"deep": true}', given=ROUTER
    ),
    # OpenCode
    "opencode.version": Effect("1.18.34", INSTALL, "opencode-1.18.34.tgz"),
    "opencode.users": Effect(["eva"], OPENCODE, "# ~eva/"),
    "opencode.default": Effect(
        "office",
        OPENCODE,
        '"model": "office/glm"',
        given="servers: {b: {model: other, port: 1234}}\n"
        "opencode: {default: b, providers: {b: {server: b}, office: {server: coder}}}",
    ),
    "opencode.small_model": Effect(
        "b",
        OPENCODE,
        '"small_model": "llama.cpp-2/other"',
        given="servers: {b: {model: other, port: 1234}}",
    ),
    "opencode.instructions": Effect(["/etc/rules.md"], OPENCODE, '"/etc/rules.md"'),
    "opencode.permission": Effect({"bash": {"rm *": "deny"}}, OPENCODE, '"rm *": "deny"'),
    "opencode.agents.NAME.description": Effect("Reviews.", OPENCODE, '"description": "Reviews."'),
    "opencode.agents.NAME.mode": Effect("subagent", OPENCODE, '"mode": "subagent"'),
    "opencode.agents.NAME.model": Effect(
        "b",
        OPENCODE,
        '"model": "llama.cpp-2/other"',
        given="servers: {b: {model: other, port: 1234}}",
    ),
    "opencode.agents.NAME.prompt": Effect("Be brief.", OPENCODE, '"prompt": "Be brief."'),
    "opencode.agents.NAME.temperature": Effect(0.3, OPENCODE, '"temperature": 0.3'),
    "opencode.agents.NAME.top_p": Effect(0.8, OPENCODE, '"top_p": 0.8'),
    "opencode.agents.NAME.steps": Effect(7, OPENCODE, '"steps": 7'),
    "opencode.agents.NAME.permission": Effect({"edit": "ask"}, OPENCODE, '"edit": "ask"'),
    "opencode.agents.NAME.tools": Effect({"webfetch": False}, OPENCODE, '"webfetch": false'),
    "opencode.agents.NAME.hidden": Effect(True, OPENCODE, '"hidden": true'),
    "opencode.agents.NAME.disable": Effect(True, OPENCODE, '"disable": true'),
    "opencode.registry": Effect("https://npm.example.com", INSTALL, "https://npm.example.com/"),
    "opencode.providers.NAME.server": Effect(
        "b",
        OPENCODE,
        "127.0.0.1:1234",
        given="servers: {b: {model: other, port: 1234}}\n" + OFFICE,
    ),
    "opencode.providers.NAME.name": Effect("Office", OPENCODE, '"name": "Office"', given=OFFICE),
    # Other clients
    "clients.claude_code.model": Effect(
        "other",
        CLAUDE,
        '"ANTHROPIC_MODEL": "other"',
        given="servers: {coder: {model: null, models: {glm: {}, other: {}}}}\n"
        "clients: {claude_code: {users: [dev], server: coder}}",
    ),
    "clients.claude_code.small_model": Effect(
        "other",
        CLAUDE,
        '"ANTHROPIC_DEFAULT_HAIKU_MODEL": "other"',
        given="servers: {coder: {model: null, models: {glm: {}, other: {}}}}\n"
        "clients: {claude_code: {users: [dev], server: coder}}",
    ),
    "clients.claude_code.users": Effect(["eva"], CLAUDE, "# ~eva/"),
    "clients.claude_code.server": Effect(
        "b",
        CLAUDE,
        '"ANTHROPIC_BASE_URL": "http://127.0.0.1:1234"',
        given="servers: {b: {model: other, port: 1234}}\n"
        "clients: {claude_code: {users: [dev], server: coder}}",
    ),
    # The scheduled check
    "drift.schedule": Effect("hourly", TIMER, "OnCalendar=hourly", given=CONTROLLER),
    "drift.randomized_delay": Effect(7, TIMER, "RandomizedDelaySec=7", given=CONTROLLER),
    "drift.timeout": Effect(77, TIMER, "--timeout 77", given=CONTROLLER),
    "drift.deep_share": Effect("1/9", TIMER, "--deep-share 1/9", given=CONTROLLER),
    "drift.prometheus": Effect("/srv/x.prom", TIMER, "/srv/x.prom", given=CONTROLLER),
    "drift.html": Effect("/srv/x.html", TIMER, "/srv/x.html", given=CONTROLLER),
    "drift.on_drift.command": Effect(["/bin/tell"], TIMER, "--notify", given=CONTROLLER),
    # Shapes
    "SECRET.env": Effect("SECRET_OF_TEST", SERVER, "hunter2"),
    "SECRET.file": Effect("secret", SERVER, "from a file"),
    "SECRET.command": Effect(["echo", "from a command"], SERVER, "from a command"),
    "SAMPLING.temperature": Effect(0.4, SERVER, "--temp 0.4"),
    "SAMPLING.top_p": Effect(0.9, SERVER, "--top-p 0.9"),
    "SAMPLING.top_k": Effect(33, SERVER, "--top-k 33"),
    "SAMPLING.min_p": Effect(0.02, SERVER, "--min-p 0.02"),
    "SAMPLING.repeat_penalty": Effect(1.2, SERVER, "--repeat-penalty 1.2"),
}
# Keys whose effect only shows when something runs, with the test that runs it.
TESTED = {
    "driver.reboot": "tests/cuda/test_cuda_driver_lab.py::"
    "test_hosts_are_rebooted_one_after_the_other_and_waited_for",
    "drift.keep": "tests/drift_timer/test_drift_history.py::"
    "test_a_check_keeps_as_many_reports_as_its_fleet_says",
    **dict.fromkeys(
        (f"drift.on_drift.webhook.{kind}" for kind in ("env", "file", "command")),
        "tests/drift_timer/test_drift_notify.py::test_an_address_may_be_a_secret",
    ),
}


# Keys that only move what is asked to be pinned, with the test that has it answered by a real hub,
# git repository, package repository or file, and looks at what hosts are told then.
PINNED = {
    "hub.endpoint": f"{LOCKED}test_an_endpoint_of_the_fleet_is_where_hosts_fetch_from",
    "models.NAME.catalogue": f"{LOCKED}test_a_model_of_the_catalogue_is_fetched_by_its_repository",
    "models.NAME.hub.revision": f"{LOCKED}test_a_revision_is_the_commit_that_hosts_fetch",
    "models.NAME.adapters.NAME.hub.revision": f"{LOCKED}test_an_adapters_revision_is_the_commit",
    "models.NAME.adapters.NAME.path": f"{LOCKED}test_files_at_a_path_are_uploaded_from_there",
    "llama_cpp.archive.path": f"{LOCKED}test_files_at_a_path_are_uploaded_from_there",
    "llama_cpp.ref": f"{LOCKED}test_a_ref_is_the_commit_that_is_fetched_and_built",
    "cuda.repository.distributions": f"{LOCKED}test_distributions_are_those_whose_hosts_are_told",
    "cuda.profile": "tests/lock/test_lock_rpm.py::"
    "test_the_full_profile_is_the_vendors_whole_toolkit",
}


def leaves() -> set[str]:
    """Every key that has a value of its own: no mapping whose keys have lines of their own."""
    found = set()
    for key in reference.keys(FLEET):
        entries = key.schema.get("additionalProperties")
        inner = resolve(entries, FLEET) if isinstance(entries, dict) else {}
        listed = resolve(key.schema.get("items", {}), FLEET)
        if key.shape or not any("properties" in each for each in (key.schema, inner, listed)):
            found.add(key.dotted)
    return found


def test_every_key_has_a_line_and_every_line_a_key() -> None:
    lines = set(EFFECTS) | set(TESTED)
    assert leaves() - lines == set(), "add a line for each"
    assert lines - leaves() == set(), "no such key"
    assert not set(EFFECTS) & set(TESTED)


# What is set once and shows in two places.
SECOND = {"models.NAME.mmproj": Effect(True, OPENCODE, '"attachment": true')}


@pytest.mark.parametrize(("path", "effect"), [*EFFECTS.items(), *SECOND.items()])
def test_the_key_shows_its_effect(
    path: str, effect: Effect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_TEST", "hunter2")
    (tmp_path / "secret").write_text("from a file\n")
    steps = tuple(path.split("."))
    before = shown(written(effect, steps, change=False), tmp_path, effect.host)
    after = shown(written(effect, steps, change=True), tmp_path, effect.host)
    assert effect.text in after.get(effect.place, ""), after
    assert effect.text not in before.get(effect.place, "")


def test_a_key_that_only_moves_a_request_has_a_test_of_the_answer() -> None:
    moved = {path for path, effect in EFFECTS.items() if effect.place == LOCK}
    assert moved == set(PINNED)


@pytest.mark.parametrize("path", [*TESTED, *PINNED])
def test_the_named_test_is_there_and_speaks_of_the_key(path: str) -> None:
    file, _, name = (TESTED | PINNED)[path].partition("::")
    text = (ROOT / file).read_text("utf-8")
    (function,) = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    source = ast.get_source_segment(text, function) or ""
    assert path.rpartition(".")[2] in source


def test_a_host_may_have_claude_code_and_nothing_else(tmp_path: Path) -> None:
    given = "servers: {coder: {host: 0.0.0.0, api_key: {env: SECRET_OF_TEST}}}"
    desk = "hosts: {desk: {clients: {claude_code: {users: [eva], server: gpu/coder}}}}"
    text = written(Effect(None, CLAUDE, "", given=given, top=desk), (), change=False)
    settings = shown(text, tmp_path, "desk")[CLAUDE]
    assert '"ANTHROPIC_BASE_URL": "http://gpu:8888"' in settings
    assert '"apiKeyHelper": "cat ~/.claude/llamaherd.key"' in settings

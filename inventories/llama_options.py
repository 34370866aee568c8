"""llama-server's options that settings of a server stand for: one table for all who need them.

The command line, a router's preset file and the refusals of ``extra_args`` are made from
:data:`OPTIONS`, so they can't disagree. Pure. Spellings as common/arg.cpp of llama.cpp has them
(read at 0c1e570); a test holds them against a real ``llama-server --help``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inventories.settings import ServerSettings

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Option:
    """One option of llama-server.

    + setting: the server's setting that stands for it, with dots inside ``sampling`` and ``tls``;
      one that begins with ``models.`` is a model's, one with ``hub.`` the hub's; empty where none
      does
    + name: the long spelling that is rendered
    + aliases: its other spellings
    + negated: spellings that say the opposite, the rendered one first
    + env: the variable that says the same
    + always: refused in ``extra_args`` of every server; others only beside their own setting, so
      that a fleet file from before the setting keeps its meaning
    + recent: not every build in the field has it: a build is asked before it is used
    """

    setting: str
    name: str
    aliases: tuple[str, ...] = ()
    negated: tuple[str, ...] = ()
    env: str = ""
    always: bool = False
    recent: bool = False

    @property
    def spellings(self) -> tuple[str, ...]:
        """Everything that a command line may call it."""
        return (self.name, *self.aliases, *self.negated)

    def words(self, value: Value) -> list[str]:
        """The words of a command line that give it ``value``; none for None.

        A boolean is the option itself, or its opposite, which says nothing where there is none.
        """
        if value is None:
            return []
        if value is True:
            return [self.name]
        if value is False:
            return list(self.negated[:1])
        return [self.name, str(value)]


def _always(setting: str, name: str, *aliases: str, env: str = "") -> Option:
    return Option(setting, name, aliases, env=env, always=True)


# In the order of the command line.
OPTIONS: tuple[Option, ...] = (
    _always("model", "--model", "-m", env="LLAMA_ARG_MODEL"),
    _always("model", "--alias", "-a", env="LLAMA_ARG_ALIAS"),
    _always("model", "--hf-repo", "-hf", "-hfr", env="LLAMA_ARG_HF_REPO"),
    _always("model", "--hf-file", "-hff", env="LLAMA_ARG_HF_FILE"),
    _always("model", "--model-url", "-mu", env="LLAMA_ARG_MODEL_URL"),
    _always("model", "--docker-repo", "-dr", env="LLAMA_ARG_DOCKER_REPO"),
    _always("hub.token", "--hf-token", "-hft", env="HF_TOKEN"),
    Option("models", "--models-preset", env="LLAMA_ARG_MODELS_PRESET", always=True, recent=True),
    _always("models", "--models-dir", env="LLAMA_ARG_MODELS_DIR"),
    _always("models_max", "--models-max", env="LLAMA_ARG_MODELS_MAX"),
    _always("host", "--host", env="LLAMA_ARG_HOST"),
    _always("port", "--port", env="LLAMA_ARG_PORT"),
    _always("context", "--ctx-size", "-c", env="LLAMA_ARG_CTX_SIZE"),
    _always("parallel", "--parallel", "-np", env="LLAMA_ARG_N_PARALLEL"),
    _always("threads", "--threads", "-t", env="LLAMA_ARG_THREADS"),
    _always("load_mode", "--load-mode", "-lm", env="LLAMA_ARG_LOAD_MODE"),
    _always("load_mode", "--mmap"),
    _always("load_mode", "--no-mmap"),
    _always("load_mode", "--mlock"),
    Option("op_offload", "--op-offload", negated=("--no-op-offload",), always=True),
    Option("jinja", "--jinja", negated=("--no-jinja",), env="LLAMA_ARG_JINJA", always=True),
    _always("sampling.temperature", "--temp", "--temperature", env="LLAMA_ARG_TEMPERATURE"),
    _always("sampling.top_p", "--top-p", env="LLAMA_ARG_TOP_P"),
    _always("sampling.top_k", "--top-k", env="LLAMA_ARG_TOP_K"),
    _always("sampling.min_p", "--min-p", env="LLAMA_ARG_MIN_P"),
    _always("sampling.repeat_penalty", "--repeat-penalty", env="LLAMA_ARG_REPEAT_PENALTY"),
    _always("models.mmproj", "--mmproj", "-mm", env="LLAMA_ARG_MMPROJ"),
    _always("models.mmproj", "--mmproj-url", "-mmu", env="LLAMA_ARG_MMPROJ_URL"),
    Option(
        "models.mmproj",
        "--mmproj-auto",
        negated=("--no-mmproj", "--no-mmproj-auto"),
        env="LLAMA_ARG_MMPROJ_AUTO",
        always=True,
    ),
    Option("models.adapters", "--lora"),
    Option("models.adapters", "--lora-scaled"),
    Option("models.adapters", "--lora-init-without-apply"),
    Option("gpus", "--device", ("-dev",), env="LLAMA_ARG_DEVICE"),
    Option("flash_attention", "--flash-attn", ("-fa",), env="LLAMA_ARG_FLASH_ATTN", recent=True),
    Option("cache_type_k", "--cache-type-k", ("-ctk",), env="LLAMA_ARG_CACHE_TYPE_K", recent=True),
    Option("cache_type_v", "--cache-type-v", ("-ctv",), env="LLAMA_ARG_CACHE_TYPE_V", recent=True),
    Option("cache_ram", "--cache-ram", ("-cram",), env="LLAMA_ARG_CACHE_RAM", recent=True),
    Option("cache_reuse", "--cache-reuse", env="LLAMA_ARG_CACHE_REUSE", recent=True),
    Option("slot_save", "--slot-save-path", recent=True),
    Option(
        "kv_unified",
        "--kv-unified",
        ("-kvu",),
        ("--no-kv-unified", "-no-kvu"),
        env="LLAMA_ARG_KV_UNIFIED",
        recent=True,
    ),
    Option("kv_unified", "--kv-unified-per-slot", env="LLAMA_ARG_KV_UNIFIED_PER_SLOT"),
    Option("swa_full", "--swa-full", env="LLAMA_ARG_SWA_FULL", recent=True),
    Option("sleep_idle_seconds", "--sleep-idle-seconds", recent=True),
    Option("gpu_layers", "--n-gpu-layers", ("-ngl", "--gpu-layers"), env="LLAMA_ARG_N_GPU_LAYERS"),
    Option("split_mode", "--split-mode", ("-sm",), env="LLAMA_ARG_SPLIT_MODE"),
    Option("tensor_split", "--tensor-split", ("-ts",), env="LLAMA_ARG_TENSOR_SPLIT"),
    Option("main_gpu", "--main-gpu", ("-mg",), env="LLAMA_ARG_MAIN_GPU"),
    Option("cpu_moe", "--cpu-moe", ("-cmoe",), env="LLAMA_ARG_CPU_MOE", recent=True),
    Option("n_cpu_moe", "--n-cpu-moe", ("-ncmoe",), env="LLAMA_ARG_N_CPU_MOE", recent=True),
    Option("batch_size", "--batch-size", ("-b",), env="LLAMA_ARG_BATCH"),
    Option("ubatch_size", "--ubatch-size", ("-ub",), env="LLAMA_ARG_UBATCH"),
    Option("threads_batch", "--threads-batch", ("-tb",)),
    Option("numa", "--numa", env="LLAMA_ARG_NUMA"),
    Option("reasoning", "--reasoning", ("-rea",), env="LLAMA_ARG_REASONING", recent=True),
    Option("reasoning_format", "--reasoning-format", env="LLAMA_ARG_THINK", recent=True),
    Option("reasoning_budget", "--reasoning-budget", env="LLAMA_ARG_THINK_BUDGET", recent=True),
    Option("chat_template", "--chat-template", env="LLAMA_ARG_CHAT_TEMPLATE"),
    Option(
        "chat_template_kwargs",
        "--chat-template-kwargs",
        env="LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
        recent=True,
    ),
    Option("chat_template_file", "--chat-template-file", env="LLAMA_ARG_CHAT_TEMPLATE_FILE"),
    Option(
        "draft", "--spec-draft-model", ("-md", "--model-draft"), env="LLAMA_ARG_SPEC_DRAFT_MODEL"
    ),
    _always(
        "draft",
        "--spec-draft-hf",
        *("-hfd", "-hfrd", "--hf-repo-draft"),
        env="LLAMA_ARG_SPEC_DRAFT_HF_REPO",
    ),
    Option("draft", "--spec-default"),
    Option("draft", "--spec-type", env="LLAMA_ARG_SPEC_TYPE"),
    Option("draft", "--spec-draft-n-max", env="LLAMA_ARG_SPEC_DRAFT_N_MAX"),
    Option("draft", "--spec-draft-n-min", env="LLAMA_ARG_SPEC_DRAFT_N_MIN"),
    Option("draft", "--spec-draft-p-min", ("--draft-p-min",), env="LLAMA_ARG_SPEC_DRAFT_P_MIN"),
    Option(
        "draft",
        "--spec-draft-ngl",
        ("-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft"),
        env="LLAMA_ARG_N_GPU_LAYERS_DRAFT",
    ),
    Option("draft", "--draft-max", ("--draft", "--draft-n"), env="LLAMA_ARG_DRAFT_MAX"),
    Option("draft", "--draft-min", ("--draft-n-min",), env="LLAMA_ARG_DRAFT_MIN"),
    Option("metrics", "--metrics", env="LLAMA_ARG_ENDPOINT_METRICS"),
    Option("load_on_startup", "--load-on-startup"),  # of a preset only
    # No setting stands for these two: we set them, and a fleet file may set them again.
    Option("", "--offline", env="LLAMA_ARG_OFFLINE"),
    Option("", "--cors-origins", env="LLAMA_ARG_CORS_ORIGINS"),
    _always("api_key", "--api-key", env="LLAMA_API_KEY"),
    _always("api_key", "--api-key-file", env="LLAMA_ARG_API_KEY_FILE"),
    _always("tls.certificate", "--ssl-cert-file", env="LLAMA_ARG_SSL_CERT_FILE"),
    _always("tls.key", "--ssl-key-file", env="LLAMA_ARG_SSL_KEY_FILE"),
)

# llama.cpp's own presets: each sets repository, port, context and more at once (common/arg.cpp).
PRESETS: tuple[str, ...] = (
    "--embd-gemma-default",
    "--fim-qwen-1.5b-default",
    "--fim-qwen-3b-default",
    "--fim-qwen-7b-default",
    "--fim-qwen-7b-spec",
    "--fim-qwen-14b-spec",
    "--fim-qwen-30b-default",
    "--gpt-oss-20b-default",
    "--gpt-oss-120b-default",
    "--vision-gemma-4b-default",
    "--vision-gemma-12b-default",
)
_LIKE_A_PRESET = re.compile(r"--(?!spec-default$)[a-z][a-z0-9.-]*-default$|--fim-[a-z0-9.-]+$")

# These let whoever reaches the server run things on the host; others that begin like them do, too.
DANGEROUS: tuple[str, ...] = (
    "--tools",
    "--agent",
    "-ag",
    "--mcp-servers",
    "--ui-mcp-proxy",
    "--webui-mcp-proxy",
)

# These let them read the host's files.
READING: tuple[str, ...] = ("--media-path", "--path")

_ENDS = "it says something and ends, so that there is no server"
REFUSED: Mapping[str, str] = {
    "--api-prefix": "clients of the fleet and the check that a server answers know no prefix",
    "--reuse-port": "two servers at one port would share requests; each has its own",
    **dict.fromkeys(("-h", "--help", "--usage", "--version", "--list-devices"), _ENDS),
    **dict.fromkeys(("-cl", "--cache-list", "--completion-bash"), _ENDS),
}
"""What no server of a fleet can have, and why: no setting stands for these."""

_BY_SPELLING: Mapping[str, Option] = {
    spelling: option for option in OPTIONS for spelling in option.spellings
}


def flag_of(argument: str) -> str:
    """The option that a word of a command line names, as the table spells it.

    llama-server takes ``--ctx_size`` for ``--ctx-size``. It knows neither ``--flag=value`` nor
    both in one word, but who writes these means the flag.
    """
    flag = re.split(r"[=\s]", argument, maxsplit=1)[0]
    return flag.replace("_", "-") if flag.startswith("--") else flag


def is_two_words(argument: str) -> bool:
    """Whether an argument is an option and its value in one word, which no llama-server takes."""
    return re.match(r"--?[A-Za-z][\w.-]*\s", argument) is not None


def managed(argument: str, settings: Mapping[str, object]) -> Option | None:
    """The option that an extra argument would set beside a setting of a server that stands for it.

    + settings: what the server sets, by name; values count as set unless they are None or False
    """
    flag = flag_of(argument)
    if _LIKE_A_PRESET.match(flag):
        return Option("model", flag, always=True)
    option = _BY_SPELLING.get(flag)
    if option is None:
        return None
    value = settings.get(option.setting)
    return option if option.always or (value is not None and value is not False) else None


def is_dangerous(argument: str) -> bool:
    """Whether an argument hands a shared server's host to whoever can reach the server."""
    return flag_of(argument).startswith(DANGEROUS) or flag_of(argument) in READING


def refusal(argument: str) -> str | None:
    """Why no server of a fleet may have an argument, whatever its settings; None for any other."""
    flag = flag_of(argument)
    if flag in READING:
        return f"{flag} lets clients read files of the host; it is not for a shared server"
    if is_dangerous(argument):
        return f"{flag} lets clients run things on the host; it is not for a shared server"
    if flag in REFUSED:
        return f"{flag} is not for a server of a fleet: {REFUSED[flag]}"
    if is_two_words(argument):
        return f"arguments are one word each: write {flag} and its value as two entries"
    return None


def render(values: Mapping[str, Value]) -> Iterator[tuple[Option, Value]]:
    """The options that have a value, in the order of the command line.

    + values: by the option's ``name``; what the table doesn't know comes last
    """
    known = {option.name for option in OPTIONS}
    others = (Option("", name) for name in values if name not in known)
    for option in (*OPTIONS, *others):
        value = values.get(option.name)
        if value is not None:
            yield option, value


def command_line(values: Mapping[str, Value]) -> list[str]:
    """The words of a command line."""
    return [word for option, value in render(values) for word in option.words(value)]


def preset(sections: Mapping[str, Mapping[str, Value]]) -> str:
    """A preset file of a router: a section a model (tools/server/README.md, "Model presets").

    Raises ValueError for a value that the format can't hold: it has no quoting, and ``;`` and
    ``#`` start a comment (common/preset.cpp).
    """
    return "\n".join(_section(name, values) for name, values in sections.items())


def _section(name: str, values: Mapping[str, Value]) -> str:
    lines = [f"[{name}]"]
    for option, value in render(values):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if option.name == "--chat-template-kwargs":
            # Inside JSON both may only stand in text, where JSON has another way to write them.
            text = text.replace(";", "\\u003b").replace("#", "\\u0023")
        if any(character in text for character in ";#\n\r") or text != text.strip():
            raise ValueError(f"{option.setting}: a preset file can't hold {text!r}")
        lines.append(f"{option.name.removeprefix('--')} = {text}")
    return "\n".join(lines) + "\n"


def sequence(values: Sequence[float | int]) -> str | None:
    """A list as llama-server takes it; None for an empty one."""
    return ",".join(f"{value:g}" for value in values) or None


def process_values(server: ServerSettings) -> dict[str, Value]:
    """What a server's settings say of the process that runs its model, by the option's ``name``.

    Not where it listens, what it loads and how that file is read: that depends on host and build.
    ``--flash-attn`` is as newer builds have it.
    """
    sampling = server.sampling
    switch = {None: None, "auto": "auto", "enabled": "on", "disabled": "off"}
    return {
        "--ctx-size": server.context * server.parallel,
        "--parallel": server.parallel,
        "--threads": server.threads,
        "--op-offload": None if server.op_offload else False,
        "--jinja": server.jinja,
        "--temp": sampling.temperature,
        "--top-p": sampling.top_p,
        "--top-k": sampling.top_k,
        "--min-p": sampling.min_p,
        "--repeat-penalty": sampling.repeat_penalty,
        "--flash-attn": switch[server.flash_attention],
        "--cache-type-k": server.cache_type_k,
        "--cache-type-v": server.cache_type_v,
        "--cache-ram": server.cache_ram,
        "--cache-reuse": server.cache_reuse,
        "--kv-unified": server.kv_unified,
        "--swa-full": server.swa_full or None,
        "--sleep-idle-seconds": server.sleep_idle_seconds,
        "--n-gpu-layers": server.gpu_layers,
        "--split-mode": server.split_mode,
        "--tensor-split": sequence(server.tensor_split),
        "--main-gpu": server.main_gpu,
        "--cpu-moe": server.cpu_moe or None,
        "--n-cpu-moe": server.n_cpu_moe,
        "--batch-size": server.batch_size,
        "--ubatch-size": server.ubatch_size,
        "--threads-batch": server.threads_batch,
        "--numa": server.numa,
        "--reasoning": switch[server.reasoning],
        "--reasoning-format": server.reasoning_format,
        "--reasoning-budget": server.reasoning_budget,
        "--chat-template": server.chat_template,
        "--chat-template-kwargs": server.chat_template_kwargs,
        "--metrics": server.metrics or None,
    }


def process_words(server: ServerSettings) -> list[str]:
    """The same as words of a command line, with the server's own further arguments."""
    return [*command_line(process_values(server)), *server.extra_args]


_PAD = 256
_UNIFIED = frozenset({"--kv-unified", "-kvu"})


def slot_contexts(server: ServerSettings) -> tuple[int, ...]:
    """Values of ``n_ctx`` that a slot of such a server may report, the usual one first.

    llama.cpp pads the total and then each sequence to multiples of 256 (``src/llama-context.cpp``);
    with ``--kv-unified`` every slot sees the whole.
    """
    total = server.context * server.parallel
    padded = _pad(total)
    if server.kv_unified:
        # Capped at what a session gets, where the build can.
        return (server.context, padded, total)
    if _UNIFIED & set(server.extra_args):
        return (padded, total)
    return (_pad(padded // server.parallel), server.context)


def _pad(tokens: int) -> int:
    return -(-tokens // _PAD) * _PAD

"""What live answers mean: settings and raw answers in, findings out. Pure.

A finding says what was checked, whether it is well, what was seen, and what to do when it isn't.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploys.common.claude_code import HELPER, environment
from deploys.common.opencode_resolved import config_differences, opencode_said
from inventories.llama_options import slot_contexts
from inventories.settings import (
    ClaudeCodeSettings,
    HostSettings,
    LlamaCppSettings,
    OpenCodeProvider,
    OpenCodeSettings,
    ServerSettings,
)
from inventories.sizing.estimate import MIB
from inventories.sizing.placement import least_gpu_bytes

if TYPE_CHECKING:
    # For types alone: it loads pyinfra, and whoever asks hosts must patch for gevent before that.
    from facts.claude_code import ClaudeCodeUser
    from facts.gpu import Gpu, GpuProcess
    from facts.live import Answer, LiveServerState, LiveUser
    from facts.server_gpus import ServerGpusState

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Finding:
    """One check of one thing on one host.

    + subject: ``server coder``, ``user dev``, or ``host``
    + check: such as ``health``, ``build``, ``context``
    + detail: what was seen, in a few words
    + remedy: what to do; empty where all is well
    + measured: numbers by name, such as ``first_token_s``
    + unknown: whether nobody can tell; such a finding is ``ok``, and proves nothing
    """

    host: str
    subject: str
    check: str
    ok: bool
    detail: str
    remedy: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)
    unknown: bool = False


def judge_server(
    settings: HostSettings, server: ServerSettings, live: LiveServerState
) -> list[Finding]:
    """Everything about one server: health, build, model, context, slots; a completion if asked."""
    found = _Findings(settings.name, f"server {server.name}")
    _judge_health(found, server, live.health)
    if live.certificate is not None:
        _judge_certificate(found, server, live.certificate)
    if not found.ok or live.props is None or live.models is None:
        return found.all
    if server.models:
        _judge_router(found, settings, server, live.props, live.models)
        return found.all
    props = live.props.json()
    if live.props.status != 200 or not isinstance(props, dict):
        found.bad("properties", _said(live.props, "/props"), _access_remedy(server, live.props))
    else:
        _judge_build(found, server.llama_cpp or settings.llama_cpp, props)
        _judge_model(found, settings, server, props, live.models)
        _judge_size(found, server, props)
    if live.completion is not None:
        _judge_completion(found, server, live.completion)
    return found.all


def judge_served(
    settings: HostSettings, router: ServerSettings, served: ServerSettings, live: LiveServerState
) -> list[Finding]:
    """One of a router's models: what its process says of itself, and a completion if asked.

    A router that isn't healthy is no finding here: :func:`judge_server` has it.
    """
    found = _Findings(settings.name, f"server {router.name}/{served.model}")
    if live.own is None or live.models is None:
        return found.all
    props = live.own.json()
    if live.own.status != 200 or not isinstance(props, dict):
        remedy = f"see journalctl -u {_unit(router)} for why it can't be loaded"
        found.bad("properties", _said(live.own, f"/props?model={served.model}"), remedy)
    else:
        _judge_model(found, settings, served, props, live.models)
        _judge_size(found, served, props)
    if live.completion is not None:
        _judge_completion(found, served, live.completion)
    return found.all


def on_gpu(settings: HostSettings, server: ServerSettings) -> bool:
    """Whether a server is declared to have layers on an NVIDIA GPU."""
    computes = "cuda" in settings.backends_of(server)
    return computes and server.gpus != () and any(s.gpu_layers != "0" for s in server.served)


def judge_gpu(
    settings: HostSettings, server: ServerSettings, state: ServerGpusState
) -> list[Finding]:
    """Whether a server that answers has its layers on a GPU.

    llama.cpp falls back to the processor without a word to its clients, and is as correct there. A
    GPU that is parted (MIG), and nvidia-smi in a container, tell nothing of processes: then the
    finding is unknown, unless the process hasn't even the driver's device open.
    """
    found = _Findings(settings.name, f"server {server.name}")
    processes = state.servers.get(server.name)
    pids = processes.pids if processes is not None else ()
    held = {gpu: [p for p in gpu.processes if p.pid in pids] for gpu in state.gpus}
    held = {gpu: those for gpu, those in held.items() if those}
    remedy = f"see journalctl -u {_unit(server)} for why CUDA did not start, then restart it"
    if state.error:
        found.unknown("gpu", f"unknown: {state.error}")
    elif held:
        least = least_gpu_bytes(server, settings.model(server.model)) // MIB
        _judge_memory(found, held, least, remedy)
    elif processes is not None and processes.device:
        parted = any(gpu.mig for gpu in state.gpus)
        why = "its GPU is parted (MIG)" if parted else "nvidia-smi lists none of its processes"
        found.unknown("gpu", f"unknown: it has the GPU's device open, and {why}")
    else:
        there = "" if state.gpus else ", and nvidia-smi lists no GPU"
        found.bad("gpu", f"computes on the processor: its process is on no GPU{there}", remedy)
    return found.all


def _judge_memory(
    found: _Findings, held: Mapping[Gpu, list[GpuProcess]], least: int, remedy: str
) -> None:
    told = {gpu: [p.memory for p in those if p.memory is not None] for gpu, those in held.items()}
    if not all(told.values()):
        where = ", ".join(f"GPU {gpu.index}" for gpu in held)
        found.unknown("gpu", f"unknown: it is on {where}, which doesn't tell its memory")
        return
    sums = {gpu: sum(those) for gpu, those in told.items()}
    text = ", ".join(f"{mib} MiB of GPU {gpu.index} ({gpu.name})" for gpu, mib in sums.items())
    if sum(sums.values()) < least:
        found.bad("gpu", f"computes on the processor: {text}; its layers take {least}", remedy)
    else:
        found.good("gpu", text)


def endpoint(server: ServerSettings) -> dict[str, Any]:
    """Where a server listens, as :class:`facts.live.Endpoint` takes it."""
    return {
        "server": server.name,
        "port": server.port,
        "address": server.host,
        "tls": server.tls is not None,
        "socket": server.socket_path or "",
    }


def client_name(server: ServerSettings) -> str:
    """The name by which clients ask a server, without its port; empty where they use its address.

    That is what its certificate must hold.
    """
    if server.address is None:
        return ""
    name, _, port = server.address.rpartition(":")
    return name if port.isdecimal() else server.address


class _Findings:
    """Collects findings of one subject."""

    def __init__(self, host: str, subject: str) -> None:
        self.host = host
        self.subject = subject
        self.all: list[Finding] = []

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.all)

    def good(self, check: str, detail: str, **measured: float) -> None:
        self.all.append(Finding(self.host, self.subject, check, True, detail, measured=measured))

    def unknown(self, check: str, detail: str) -> None:
        self.all.append(Finding(self.host, self.subject, check, True, detail, unknown=True))

    def bad(self, check: str, detail: str, remedy: str) -> None:
        self.all.append(Finding(self.host, self.subject, check, False, detail, remedy))

    def compare(self, check: str, equal: bool, seen: str, expected: str, remedy: str) -> None:
        if equal:
            self.good(check, seen)
        else:
            self.bad(check, f"{seen}, expected {expected}", remedy)


def _said(answer: Answer, what: str) -> str:
    """What came instead of the expected answer, on one line."""
    if answer.error or answer.status == 0:
        reason = answer.error or f"curl exited {answer.exit_code} without an answer"
        return f"{what}: {reason}"
    value = answer.json()
    error = value.get("error") if isinstance(value, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return f"{what} answered {answer.status}" + (f" ({message})" if message else "")


def _unit(server: ServerSettings) -> str:
    return f"llama-server@{server.name}.service"


def _access_remedy(server: ServerSettings, answer: Answer) -> str:
    if answer.status in (401, 403):
        return (
            f"the server wants a key that /etc/llama-server/{server.name}/api-key doesn't hold: "
            "converge the host"
        )
    return f"is port {server.port} another program's? See: ss -ltnp 'sport = :{server.port}'"


def _judge_health(found: _Findings, server: ServerSettings, answer: Answer) -> None:
    if answer.status == 200:
        found.good("health", "answers")
    elif answer.status == 503:
        found.bad(
            "health",
            _said(answer, "/health"),
            "the model is still loading, or failed to: wait, then see "
            f"journalctl -u {_unit(server)}",
        )
    elif answer.exit_code == 127:
        found.bad("health", _said(answer, "/health"), "install curl, or converge the host")
    elif answer.status == 0:
        found.bad(
            "health",
            _said(answer, "/health"),
            f"see systemctl status {_unit(server)}, then converge the host",
        )
    else:
        found.bad("health", _said(answer, "/health"), _access_remedy(server, answer))


def _judge_certificate(found: _Findings, server: ServerSettings, answer: Answer) -> None:
    """What a client that checks certificates is told (curl's exit codes: 60 is a refusal)."""
    name = client_name(server) or "its address"
    if answer.exit_code == 0:
        found.good("certificate", f"holds for {name}")
        return
    found.bad(
        "certificate",
        _said(answer, name),
        f"renew it, or set servers.{server.name}.address to a name that it holds",
    )


def _judge_router(
    found: _Findings,
    settings: HostSettings,
    server: ServerSettings,
    props: Answer,
    models: Answer,
) -> None:
    """A router holds no model itself: it must be of the build and list every model."""
    values = props.json()
    if props.status != 200 or not isinstance(values, dict):
        found.bad("properties", _said(props, "/props"), _access_remedy(server, props))
        return
    _judge_build(found, server.llama_cpp or settings.llama_cpp, values)
    wanted = [served.model for served in server.models]
    missing = sorted(set(wanted) - set(_ids(models)))
    found.compare(
        "models",
        not missing,
        f"offers {', '.join(_ids(models)) or 'nothing'}",
        ", ".join(wanted),
        "the running process has another preset: converge the host",
    )


def _ids(models: Answer) -> list[str]:
    """Names of the models that an answer to /v1/models lists."""
    listed = models.json()
    data = listed.get("data") if isinstance(listed, dict) else None
    entries = data if isinstance(data, list) else []
    return [str(item.get("id")) for item in entries if isinstance(item, dict)]


def _judge_build(
    found: _Findings, build: LlamaCppSettings | None, props: Mapping[str, Any]
) -> None:
    seen = str(props.get("build_info") or "no build_info")
    if build is None:
        found.good("build", f"{seen} (the fleet says nothing of it)")
        return
    number, _, commit = seen.removeprefix("b").partition("-")
    # A build reports an abbreviated commit; either may be the longer one.
    same = bool(commit) and (build.commit.startswith(commit) or commit.startswith(build.commit))
    found.compare(
        "build",
        same and number == str(build.build_number),
        seen,
        f"b{build.build_number}-{build.commit}",
        "the running process is of another build: converge the host",
    )


def _judge_model(
    found: _Findings,
    settings: HostSettings,
    server: ServerSettings,
    props: Mapping[str, Any],
    models: Answer,
) -> None:
    ids = _ids(models)
    remedy = "the running process serves something else: converge the host"
    if models.status != 200:
        found.bad("model", _said(models, "/v1/models"), _access_remedy(server, models))
        return
    if server.model not in ids:
        found.bad("model", f"serves {', '.join(ids) or 'nothing'}, expected {server.model}", remedy)
        return
    path, expected = str(props.get("model_path")), settings.model(server.model).path
    if path != expected:
        found.bad("model", f"loaded {path}, expected {expected}", remedy)
        return
    found.good("model", server.model)


def _judge_size(found: _Findings, server: ServerSettings, props: Mapping[str, Any]) -> None:
    generation = props.get("default_generation_settings")
    seen = generation.get("n_ctx") if isinstance(generation, dict) else None
    remedy = "the running process has other flags: converge the host"
    if isinstance(seen, int) and seen < server.context:
        # The server caps a slot at what the model was trained for, and says so only in its log.
        remedy += f"; if it stays so the model has no more: set context to {seen}"
    found.compare(
        "context", seen in slot_contexts(server), f"{seen} a slot", str(server.context), remedy
    )
    slots = props.get("total_slots")
    found.compare(
        "slots",
        slots == server.parallel,
        str(slots),
        str(server.parallel),
        "the running process has other flags: converge the host",
    )


@dataclass(frozen=True)
class Completion:
    """One streamed completion.

    + tokens: generated, thoughts included
    + first_token: seconds from the request to the first of them; None where none came
    + rate: tokens a second after that, as the server measured it; None where it doesn't say
    """

    tokens: int
    first_token: float | None
    rate: float | None
    error: str = ""


def read_completion(answer: Answer) -> Completion:
    """The events of a streamed chat completion, taken together."""
    tokens, first, rate, error = 0, None, None, ""
    for line, seconds in zip(answer.body.split("\n"), answer.seconds, strict=False):
        event = _event(line)
        if event.get("error"):
            error = _error_message(event["error"])
        if _has_text(event):
            tokens += 1
            first = seconds if first is None else first
        timings = event.get("timings")
        if isinstance(timings, dict):
            tokens = int(timings.get("predicted_n") or tokens)
            rate = timings.get("predicted_per_second") or rate
    return Completion(tokens, first, rate, error)


def _event(line: str) -> Mapping[str, Any]:
    """One line of a server-sent stream; ``error: {...}`` is how older builds tell of one."""
    field_name, _, text = line.partition(": ")
    if field_name not in ("data", "error"):
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    return value if field_name == "data" else {"error": value}


def _error_message(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)


def _has_text(event: Mapping[str, Any]) -> bool:
    choices = event.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    delta = choices[0].get("delta")
    return isinstance(delta, dict) and bool(delta.get("content") or delta.get("reasoning_content"))


def _judge_completion(found: _Findings, server: ServerSettings, answer: Answer) -> None:
    completion = read_completion(answer)
    log = f"see journalctl -u {_unit(server)}"
    if answer.status != 200:
        remedy = _access_remedy(server, answer) if answer.status in (401, 403) else log
        found.bad("completion", _said(answer, "the completion"), remedy)
    elif completion.error:
        found.bad("completion", f"broke off: {completion.error}", log)
    elif completion.first_token is None:
        said = f": {answer.error}" if answer.error else ""
        found.bad("completion", f"no token came{said}", f"are all slots busy? If not, {log}")
    elif answer.exit_code != 0:
        found.bad("completion", f"broke off after {completion.tokens} tokens: {answer.error}", log)
    else:
        rate = completion.rate or 0.0
        found.good(
            "completion",
            f"first token after {completion.first_token:.2f} s, {rate:.1f} tokens/s",
            first_token_s=round(completion.first_token, 3),
            tokens_per_s=round(rate, 2),
            tokens=completion.tokens,
        )


# OpenCode ---------------------------------------------------------------------------------------


def judge_opencode(
    host: str, settings: OpenCodeSettings, users: Sequence[LiveUser]
) -> list[Finding]:
    """Everything about OpenCode: how it resolves for each user, and whether servers answer."""
    by_name = {user.name: user for user in users}
    findings: list[Finding] = []
    for name in settings.users:
        found = _Findings(host, f"user {name}")
        user = by_name.get(name)
        if user is None or not user.exists:
            found.bad(
                "account",
                f"the host has no account {name}",
                f"create it (useradd --create-home {name}), or take it out of opencode.users",
            )
        else:
            _judge_config(found, settings, user)
            for provider in settings.providers:
                _judge_reach(found, provider, user.models.get(provider.id))
        findings += found.all
    return findings


def _judge_config(found: _Findings, settings: OpenCodeSettings, user: LiveUser) -> None:
    try:
        config = json.loads(user.config) if user.exit_code == 0 else None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        found.bad("config", opencode_said(user.exit_code, user.error), _opencode_remedy(user))
        return
    differences = config_differences(settings, config)
    if differences:
        found.bad(
            "config",
            "; ".join(differences),
            "converge the host; if it stays so, a file of the user's wins (opencode.jsonc, "
            "$OPENCODE_CONFIG): take the value out there",
        )
    else:
        found.good("config", f"resolves to {settings.default_model}")


def _opencode_remedy(user: LiveUser) -> str:
    if user.exit_code == 127:
        return "converge the host"
    return "mend the file that it names, or converge the host"


def _judge_reach(found: _Findings, provider: OpenCodeProvider, answer: Answer | None) -> None:
    check = f"reach {provider.id}"
    if answer is None:
        found.bad(check, "was not asked", "see the configuration's own finding")
        return
    if answer.status in (401, 403):
        found.bad(
            check,
            _said(answer, provider.base_url),
            "the user's key is not the server's: converge both hosts",
        )
        return
    if answer.status != 200:
        found.bad(
            check,
            _said(answer, provider.base_url),
            f"verify {provider.server} itself; then its address, `host` setting and firewalls",
        )
        return
    ids = _ids(answer)
    wanted = [model.id for model in provider.models]
    found.compare(
        check,
        set(wanted) <= set(ids),
        f"offers {', '.join(ids) or 'nothing'}",
        ", ".join(wanted),
        f"converge {provider.server.partition('/')[0]}",
    )


# Claude Code ------------------------------------------------------------------------------------


def judge_claude_code(
    host: str,
    settings: ClaudeCodeSettings,
    users: Mapping[str, ClaudeCodeUser],
    answers: Mapping[str, Answer],
) -> list[Finding]:
    """What each user's settings say, and what the server answers to a message sent by them."""
    findings: list[Finding] = []
    for name in settings.users:
        found = _Findings(host, f"user {name}")
        user = users.get(name)
        if user is None:
            found.bad(
                "claude code",
                f"the host has no account {name}",
                f"create it (useradd --create-home {name}), or take it out of "
                "clients.claude_code.users",
            )
        elif differences := claude_code_differences(settings, user):
            found.bad("claude code", "; ".join(differences), "converge the host")
        else:
            _judge_message(found, settings, answers.get(name))
        findings += found.all
    return findings


def claude_code_differences(settings: ClaudeCodeSettings, user: ClaudeCodeUser) -> list[str]:
    """Where a user's settings don't point at the server, in words; never a key's value."""
    text = b"" if user.settings is None else user.settings.content or b""
    try:
        said = json.loads(text or b"{}")
    except ValueError:
        return [f"{user.path} is not JSON"]
    wanted = environment(settings)
    seen = said.get("env") if isinstance(said, dict) else None
    values = seen if isinstance(seen, dict) else {}
    wrong = [name for name, value in wanted.items() if values.get(name) != value]
    if settings.api_key is not None:
        if said.get("apiKeyHelper") != HELPER:
            wrong.append("apiKeyHelper")
        if values.get("ANTHROPIC_AUTH_TOKEN"):
            wrong.append("ANTHROPIC_AUTH_TOKEN (it wins over apiKeyHelper: take it out by hand)")
        if user.key is None:
            wrong.append("the key file")
    return [f"{user.path}: not as declared: {', '.join(wrong)}"] if wrong else []


def _judge_message(found: _Findings, settings: ClaudeCodeSettings, answer: Answer | None) -> None:
    what = f"{settings.base_url}/v1/messages"
    if answer is None:
        found.bad("claude code", f"{what} was not asked", "run again")
        return
    message = answer.json()
    if answer.status in (401, 403):
        remedy = "the user's key is not the server's: converge both hosts"
        found.bad("claude code", _said(answer, what), remedy)
    elif answer.status != 200:
        remedy = f"verify {settings.server} itself; then its address, `host` setting and firewalls"
        found.bad("claude code", _said(answer, what), remedy)
    elif not isinstance(message, dict) or message.get("type") != "message":
        found.bad("claude code", f"{what} answers no message", "is it a llama-server?")
    else:
        found.compare(
            "claude code",
            message.get("model") == settings.model,
            f"{message.get('model')} answers",
            settings.model,
            f"converge {settings.server.partition('/')[0]}",
        )

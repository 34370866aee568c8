"""What is found about a server, from what a real llama-server answered.

``recorded/server_*.txt`` is the output of :class:`facts.live.LiveServer` on a Debian 12 host, of a
llama-server of llama.cpp 0c1e570 (build 1, CPU) with SmolLM2-135M-Instruct.Q4_1, on two busy cores:
as declared (``--alias smollm2 -c 16384 -np 2 --api-key-file ...``), while it loads, without the key
on the host, with other flags (``--alias other -c 16384 -np 1``), and with a context beyond what the
model was trained for (``-c 32768 -np 2``).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from facts.live import Answer, LiveServerState, parse_live_server
from inventories.llama_options import slot_contexts
from inventories.settings import (
    Artifact,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    ServerSettings,
    SshSettings,
)
from llamaherd.verification import (
    Finding,
    client_name,
    judge_served,
    judge_server,
    read_completion,
)

RECORDED = Path(__file__).parent / "recorded"
SERVER = ServerSettings("coder", "smollm2", 8888, context=8192, parallel=2)
SETTINGS = HostSettings(
    "gpu",
    SshSettings("gpu"),
    llama_cpp=LlamaCppSettings(GitSource("r", "0c1e570"), 1, "0c1e570"),
    models=(
        ModelSettings(
            "smollm2",
            "SmolLM2",
            "/var/lib/llamaherd/models/demo/smollm2",
            (Artifact("SmolLM2-135M-Instruct.Q4_1.gguf", 98362432, "0" * 64),),
        ),
    ),
    servers=(SERVER,),
)


def recorded(name: str, kind: str = "server") -> LiveServerState:
    return parse_live_server((RECORDED / f"{kind}_{name}.txt").read_text().splitlines())


def stream(*lines: str, status: int = 200, exit_code: int = 0, error: str = "") -> Answer:
    """A streamed answer whose lines came a tenth of a second apart."""
    times = tuple(index / 10 for index in range(len(lines)))
    return Answer(status, "\n".join(lines), error, exit_code, times)


def judged(
    live: LiveServerState, server: ServerSettings = SERVER, settings: HostSettings = SETTINGS
) -> dict[str, Finding]:
    return {finding.check: finding for finding in judge_server(settings, server, live)}


def test_a_server_as_declared_is_well_in_every_check() -> None:
    findings = judged(recorded("declared"))
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert list(findings) == ["health", "build", "model", "context", "slots", "completion"]
    assert findings["build"].detail == "b1-0c1e570"
    assert findings["context"].detail == "8192 a slot"


def test_a_completion_is_measured() -> None:
    measured = judged(recorded("declared"))["completion"].measured
    # The first event only names the role; the first token came later.
    assert measured == {"first_token_s": 1.509, "tokens_per_s": 9.41, "tokens": 13}


def test_a_server_that_loads_is_told_from_one_that_is_down() -> None:
    findings = judged(recorded("loading"))
    assert list(findings) == ["health"]
    assert "503 (Loading model)" in findings["health"].detail
    assert "journalctl -u llama-server@coder.service" in findings["health"].remedy


def test_a_key_that_the_host_lacks_is_named_with_its_place() -> None:
    findings = judged(recorded("no_key"))
    assert findings["health"].ok
    wrong = [finding for finding in findings.values() if not finding.ok]
    assert {finding.check for finding in wrong} <= {"properties", "completion"}
    assert all("/etc/llama-server/coder/api-key" in finding.remedy for finding in wrong)
    assert findings["completion"].detail.startswith("the completion answered 401")


def test_other_flags_than_declared_are_found_out() -> None:
    findings = judged(recorded("other_flags"))
    assert "serves other, expected smollm2" in findings["model"].detail
    assert findings["slots"].detail == "1, expected 2"
    assert findings["health"].ok


def test_a_context_beyond_the_models_training_is_told_with_what_it_can() -> None:
    server = dataclasses.replace(SERVER, context=16384)
    finding = judged(recorded("beyond_training"), server)["context"]
    assert finding.detail == "8192 a slot, expected 16384"
    assert finding.remedy.endswith("set context to 8192")


@pytest.mark.parametrize(
    ("number", "commit", "ok"),
    [
        (1, "0c1e570", True),
        (1, "0c1e5700000000000000000000000000000000ab", True),
        (2, "0c1e570", False),
        (1, "deadbee", False),
    ],
)
def test_a_build_is_the_locks_number_and_commit(number: int, commit: str, ok: bool) -> None:
    build = LlamaCppSettings(GitSource("r", commit), number, commit)
    settings = dataclasses.replace(SETTINGS, llama_cpp=build)
    assert judged(recorded("declared"), settings=settings)["build"].ok is ok


def test_another_file_of_the_same_alias_is_found_out() -> None:
    model = dataclasses.replace(SETTINGS.models[0], directory="/var/lib/llamaherd/models/newer")
    settings = dataclasses.replace(SETTINGS, models=(model,))
    finding = judged(recorded("declared"), settings=settings)["model"]
    assert not finding.ok
    assert "/models/newer/" in finding.detail


@pytest.mark.parametrize(
    ("context", "parallel", "flags", "reported"),
    [
        (8192, 2, (), 8192),
        (1000, 2, (), 1024),
        (300, 3, (), 512),
        (8192, 2, ("--kv-unified",), 16384),
    ],
)
def test_a_slots_context_is_rounded_as_llama_cpp_rounds_it(
    context: int, parallel: int, flags: tuple[str, ...], reported: int
) -> None:
    server = ServerSettings("s", "m", 1, context, parallel=parallel, extra_args=flags)
    assert slot_contexts(server)[0] == reported


TOKEN = 'data: {"choices": [{"delta": {"content": "Hi"}}]}'
THOUGHT = 'data: {"choices": [{"delta": {"reasoning_content": "Hm"}}]}'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (stream("data: [DONE]"), "no token came"),
        (stream(TOKEN, 'data: {"error": {"message": "out of memory"}}'), "out of memory"),
        (stream(TOKEN, 'error: {"message": "gone"}'), "gone"),
        (stream(TOKEN, exit_code=28, error="curl: (28) late"), "broke off after 1 tokens"),
        (stream(exit_code=28, error="curl: (28) late"), "no token came: curl: (28) late"),
        (stream("<html>", status=502), "answered 502"),
        (stream(status=0, error="curl: (56) reset", exit_code=56), "curl: (56) reset"),
        (stream("data: [1]", "data: {", 'data: {"choices": [3]}'), "no token came"),
    ],
)
def test_a_completion_that_is_none_is_told(answer: Answer, words: str) -> None:
    finding = judged(dataclasses.replace(recorded("declared"), completion=answer))["completion"]
    assert not finding.ok
    assert words in finding.detail
    assert finding.remedy


def test_thoughts_count_as_tokens() -> None:
    completion = read_completion(stream("data: {}", THOUGHT, TOKEN))
    assert (completion.tokens, completion.first_token) == (2, 0.1)


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", json.dumps({"build_info": 3})])
def test_a_stranger_at_the_port_is_no_traceback(body: str) -> None:
    live = LiveServerState(Answer(200, "ok"), *[Answer(200, body)] * 3)
    findings = judged(live).values()
    assert any(not finding.ok for finding in findings)
    assert all(finding.remedy for finding in findings if not finding.ok)


# ``router_*.txt``: a real llama-server's answers, SmolLM2 under two names, models_max 1.
BOTH = tuple(
    dataclasses.replace(SERVER, model=name, context=context)
    for name, context in (("glm", 1024), ("small", 512))
)
ROUTER = dataclasses.replace(BOTH[0], models=BOTH)
FILE = Artifact("SmolLM2-135M-Instruct.Q4_1.gguf", 98362432, "0" * 64)
ROUTED = dataclasses.replace(
    SETTINGS,
    models=tuple(
        ModelSettings(name, name, "/var/lib/llamaherd/models/demo", (FILE,))
        for name in ("glm", "small")
    ),
    servers=(ROUTER,),
)


def test_a_router_is_asked_for_its_build_and_its_models() -> None:
    findings = judged(recorded("glm", kind="router"), ROUTER, ROUTED)
    assert [(check, finding.ok) for check, finding in findings.items()] == [
        ("health", True),
        ("build", True),
        ("models", True),
    ]
    assert findings["models"].detail == "offers glm, small"


def test_a_router_without_one_of_its_models_is_found_out() -> None:
    more = dataclasses.replace(ROUTER, models=(*BOTH, dataclasses.replace(SERVER, model="new")))
    finding = judged(recorded("glm", kind="router"), more, ROUTED)["models"]
    assert not finding.ok
    assert finding.detail == "offers glm, small, expected glm, small, new"


@pytest.mark.parametrize("number", [0, 1])
def test_each_model_of_a_router_is_judged_by_what_is_its_own(number: int) -> None:
    served = BOTH[number]
    found = judge_served(ROUTED, ROUTER, served, recorded(served.model, kind="router"))
    assert {finding.subject for finding in found} == {f"server coder/{served.model}"}
    assert [finding.check for finding in found] == ["model", "context", "slots", "completion"]
    assert all(finding.ok for finding in found), found


def test_a_routers_model_that_cannot_be_loaded_is_told() -> None:
    live = dataclasses.replace(
        recorded("glm", kind="router"),
        own=Answer(500, json.dumps({"error": {"message": "model failed to load"}})),
        completion=None,
    )
    (finding,) = judge_served(ROUTED, ROUTER, BOTH[0], live)
    assert not finding.ok
    assert "model failed to load" in finding.detail


def test_sessions_that_share_a_pool_still_get_what_one_was_told() -> None:
    server = dataclasses.replace(SERVER, kv_unified=True)
    assert slot_contexts(server) == (8192, 16384, 16384)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (None, ""),
        ("ai.example.com:8888", "ai.example.com"),
        ("[fd00::1]:8888", "[fd00::1]"),
        ("10.0.0.4:1", "10.0.0.4"),
    ],
)
def test_a_certificate_must_hold_the_name_that_clients_use(address: str | None, name: str) -> None:
    assert client_name(dataclasses.replace(SERVER, address=address)) == name


@pytest.mark.parametrize(("code", "ok"), [(0, True), (60, False)])
def test_a_certificate_is_judged_by_what_curl_says_of_it(code: int, ok: bool) -> None:
    answer = Answer(200 if ok else 0, "", "" if ok else "curl: (60) certificate has expired", code)
    live = dataclasses.replace(recorded("declared"), certificate=answer)
    server = dataclasses.replace(SERVER, address="ai.example.com:8888")
    finding = judged(live, server)["certificate"]
    assert finding.ok is ok
    assert ("expired" in finding.detail) is not ok

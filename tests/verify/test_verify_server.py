"""What is found about a server, from what it answers.

The answers have the shape that llama.cpp 0c1e570 gives them (``tools/server/server-context.cpp``,
``server-http.cpp``, ``server-task.cpp``), cut down to the fields that are read.
"""

from __future__ import annotations

import dataclasses
import json

import pytest

from facts.live import Answer, LiveServerState
from inventories.settings import (
    Artifact,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    ServerSettings,
    SshSettings,
)
from llamaherd.verification import Finding, judge_server, read_completion, slot_contexts

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


def answers(*, context: int = 8192, slots: int = 2, alias: str = "smollm2") -> LiveServerState:
    """A healthy server of build 1, commit 0c1e570, that generated three tokens."""
    props = {
        "default_generation_settings": {"n_ctx": context},
        "total_slots": slots,
        "model_alias": alias,
        "model_path": SETTINGS.models[0].path,
        "build_info": "b1-0c1e570",
    }
    models = {"object": "list", "data": [{"id": alias, "meta": {"n_ctx": context}}]}
    timings = {"prompt_n": 31, "prompt_ms": 210.0, "predicted_n": 3, "predicted_per_second": 98.4}
    events = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]},
        *({"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("Hel", "lo", "!")),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"completion_tokens": 3}, "timings": timings},
    ]
    lines = [line for event in events for line in (f"data: {json.dumps(event)}", "")]
    return LiveServerState(
        health=Answer(200, '{"status":"ok"}'),
        props=Answer(200, json.dumps(props)),
        models=Answer(200, json.dumps(models)),
        completion=stream(*lines, "data: [DONE]"),
    )


def refusal(status: int, message: str) -> Answer:
    """An error as ``format_error_response`` makes it."""
    return Answer(status, json.dumps({"error": {"code": status, "message": message}}))


def stream(*lines: str, status: int = 200, exit_code: int = 0, error: str = "") -> Answer:
    """A streamed answer whose lines came a tenth of a second apart."""
    times = tuple(index / 10 for index in range(len(lines)))
    return Answer(status, "\n".join(lines), error, exit_code, times)


def judged(
    live: LiveServerState, server: ServerSettings = SERVER, settings: HostSettings = SETTINGS
) -> dict[str, Finding]:
    return {finding.check: finding for finding in judge_server(settings, server, live)}


def test_a_server_as_declared_is_well_in_every_check() -> None:
    findings = judged(answers())
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert list(findings) == ["health", "build", "model", "context", "slots", "completion"]
    assert findings["build"].detail == "b1-0c1e570"
    assert findings["context"].detail == "8192 a slot"


def test_a_completion_is_measured() -> None:
    measured = judged(answers())["completion"].measured
    # The event before the first token, which only names the role, is none.
    assert measured == {"first_token_s": 0.2, "tokens_per_s": 98.4, "tokens": 3}


def test_a_server_that_loads_is_told_from_one_that_is_down() -> None:
    findings = judged(LiveServerState(refusal(503, "Loading model")))
    assert list(findings) == ["health"]
    assert "503 (Loading model)" in findings["health"].detail
    assert "journalctl -u llama-server@coder.service" in findings["health"].remedy


def test_a_key_that_the_host_lacks_is_named_with_its_place() -> None:
    findings = judged(LiveServerState(Answer(200, "ok"), *[refusal(401, "Invalid API Key")] * 3))
    assert findings["health"].ok
    wrong = [finding for finding in findings.values() if not finding.ok]
    assert {finding.check for finding in wrong} <= {"properties", "completion"}
    assert all("/etc/llama-server/coder/api-key" in finding.remedy for finding in wrong)
    assert findings["completion"].detail.startswith("the completion answered 401")


def test_other_flags_than_declared_are_found_out() -> None:
    findings = judged(answers(context=16384, slots=1, alias="other"))
    assert "serves other, expected smollm2" in findings["model"].detail
    assert findings["slots"].detail == "1, expected 2"
    assert findings["context"].detail == "16384 a slot, expected 8192"
    assert findings["health"].ok


def test_a_context_beyond_the_models_training_is_told_with_what_it_can() -> None:
    server = dataclasses.replace(SERVER, context=16384)
    finding = judged(answers(), server)["context"]
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
    assert judged(answers(), settings=settings)["build"].ok is ok


def test_another_file_of_the_same_alias_is_found_out() -> None:
    model = dataclasses.replace(SETTINGS.models[0], directory="/var/lib/llamaherd/models/newer")
    settings = dataclasses.replace(SETTINGS, models=(model,))
    finding = judged(answers(), settings=settings)["model"]
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
    finding = judged(dataclasses.replace(answers(), completion=answer))["completion"]
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

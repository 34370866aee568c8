"""What is found about OpenCode, from what the real program answered.

``recorded/opencode_*.txt`` is the output of :class:`facts.live.LiveOpenCode` on a Debian 12 host
with OpenCode 1.18.33, for the users ``dev`` and ``ghost`` (who has no account), no server running:
as converged, without the key file, with a broken configuration, with an ``opencode.jsonc`` that
wins over ours, and without OpenCode.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from facts.live import Answer, LiveUser, parse_live_opencode
from inventories.settings import (
    OpenCodeModel,
    OpenCodeProvider,
    OpenCodeSettings,
    SecretReference,
)
from llamaherd.verification import Finding, config_differences, judge_opencode

RECORDED = Path(__file__).parent / "recorded"
PROVIDER = OpenCodeProvider(
    "coder",
    "llama-server (local)",
    "gpu/coder",
    "http://127.0.0.1:8888/v1",
    (OpenCodeModel("smollm2", "SmolLM2", 8192, 2048),),
    SecretReference(env="CODER_KEY"),
)
SETTINGS = OpenCodeSettings("1.18.33", {}, ("dev",), (PROVIDER,), "coder")
ANSWERS = Answer(200, '{"object": "list", "data": [{"id": "smollm2"}]}')


def recorded(name: str) -> tuple[LiveUser, ...]:
    return parse_live_opencode((RECORDED / f"opencode_{name}.txt").read_text().splitlines())


def found(name: str, settings: OpenCodeSettings = SETTINGS) -> dict[str, Finding]:
    return {f"{f.subject}: {f.check}": f for f in judge_opencode("gpu", settings, recorded(name))}


def test_a_converged_configuration_is_well() -> None:
    finding = found("no_server")["user dev: config"]
    assert finding.ok
    assert finding.detail == "resolves to coder/smollm2"


def test_a_server_that_does_not_answer_is_named_with_curls_reason() -> None:
    finding = found("no_server")["user dev: reach coder"]
    assert not finding.ok
    assert "127.0.0.1 port 8888" in finding.detail
    assert "gpu/coder" in finding.remedy


def test_a_user_without_an_account_hides_nobody_else() -> None:
    settings = dataclasses.replace(SETTINGS, users=("ghost", "dev"))
    findings = found("no_server", settings)
    assert "useradd" in findings["user ghost: account"].remedy
    assert findings["user dev: config"].ok


def test_a_missing_key_file_is_told_in_opencodes_words() -> None:
    detail = found("key_missing")["user dev: config"].detail
    assert detail.startswith("Configuration is invalid at /home/dev/.config/opencode/opencode.json")
    assert detail.endswith("coder.key does not exist")


def test_a_broken_configuration_is_told_without_what_it_holds() -> None:
    finding = found("broken_config")["user dev: config"]
    assert not finding.ok
    assert "CommaExpected at line 3, column 3" in finding.detail
    assert "literal-secret" not in finding.detail


def test_a_file_that_wins_over_ours_is_found_out() -> None:
    finding = found("jsonc_wins")["user dev: config"]
    assert not finding.ok
    assert 'provider.coder.options.baseURL is "https://cloud.example/v1"' in finding.detail
    assert "opencode.jsonc" in finding.remedy


def test_a_host_without_opencode_is_told_to_converge() -> None:
    finding = found("absent")["user dev: config"]
    assert (finding.ok, finding.detail, finding.remedy) == (
        False,
        "there is no OpenCode",
        "converge the host",
    )


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"model": "opencode/big"}, 'model is "opencode/big", expected "coder/smollm2"'),
        ({"small_model": None}, 'small_model is null, expected "coder/smollm2"'),
        ({"enabled_providers": ["coder", "cloud"]}, "enabled_providers is"),
        ({"disabled_providers": ["coder"]}, "disabled_providers holds coder"),
        ({"provider": {}}, "there is no provider coder"),
        (
            {"provider": {"coder": {"models": {"smollm2": {"limit": {"context": 9}}}}}},
            "provider.coder.models.smollm2.limit.context is 9, expected 8192",
        ),
    ],
)
def test_each_value_that_matters_is_compared(change: dict[str, object], difference: str) -> None:
    config = json.loads(recorded("no_server")[0].config)
    assert config_differences(SETTINGS, config) == []
    assert any(
        text.startswith(difference) for text in config_differences(SETTINGS, config | change)
    )


@pytest.mark.parametrize(
    ("answer", "ok", "words"),
    [
        (ANSWERS, True, "offers smollm2"),
        (Answer(200, '{"data": [{"id": "other"}]}'), False, "offers other, expected smollm2"),
        (Answer(200, "<html>a stranger</html>"), False, "offers nothing, expected smollm2"),
        (Answer(401, '{"error": {"message": "Invalid API Key"}}'), False, "401 (Invalid API Key)"),
        (Answer(0, "", "curl: (28) Timeout", 28), False, "curl: (28) Timeout"),
        (Answer(502, "bad gateway"), False, "answered 502"),
    ],
)
def test_what_a_server_says_to_a_client_is_judged(answer: Answer, ok: bool, words: str) -> None:
    user = dataclasses.replace(recorded("no_server")[0], models={"coder": answer})
    finding = judge_opencode("gpu", SETTINGS, [user])[1]
    assert finding.ok is ok
    assert words in finding.detail
    assert bool(finding.remedy) is not ok


def test_opencode_that_hangs_is_told_so() -> None:
    user = LiveUser("dev", exit_code=124, models={"coder": ANSWERS})
    assert "more than 60 s" in judge_opencode("gpu", SETTINGS, [user])[0].detail


def test_every_model_of_a_server_must_be_offered_and_limited() -> None:
    small = OpenCodeModel("small", "Small", 4096, 1024)
    provider = dataclasses.replace(PROVIDER, models=(*PROVIDER.models, small))
    settings = dataclasses.replace(SETTINGS, providers=(provider,))
    user = dataclasses.replace(recorded("no_server")[0], models={"coder": ANSWERS})
    config, reach = judge_opencode("gpu", settings, [user])
    assert "provider.coder.models.small.limit.context is null, expected 4096" in config.detail
    assert reach.detail == "offers smollm2, expected smollm2, small"

"""What a user's OpenCode configuration keeps, gets, and when it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploys.common.json_secrets import holds_secret
from deploys.common.json_text import JsonTextError
from deploys.opencode.config import (
    provider_entry,
    system_config,
    user_config,
)
from inventories.settings import OpenCodeModel, OpenCodeProvider, OpenCodeSettings, SecretReference

PLACE = "/home/dev/.config/opencode/opencode.json"
MODEL = OpenCodeModel("smollm2", "SmolLM2 Q4_1", context=8192, output=4096)
CODER = OpenCodeProvider("coder", "demo/coder", "demo/coder", "http://127.0.0.1:8888/v1", (MODEL,))
KEYED = OpenCodeProvider(
    "coder",
    "demo/coder",
    "demo/coder",
    "http://10.0.0.1:8888/v1",
    (MODEL,),
    SecretReference(env="K"),
)
THINKER = OpenCodeProvider(
    "deep",
    "gpu/deep",
    "gpu/deep",
    "http://10.0.0.2:8888/v1",
    (OpenCodeModel("glm", "GLM", context=65536, output=16384, reasoning=True),),
)


def settings(*providers: OpenCodeProvider) -> OpenCodeSettings:
    return OpenCodeSettings(
        "1.18.33", {}, ("dev",), providers or (CODER,), (providers or (CODER,))[0].id
    )


def merged(text: str, *providers: OpenCodeProvider) -> str:
    return user_config(text, settings(*providers), PLACE)


def test_a_new_configuration_holds_our_values_and_nothing_else() -> None:
    text = merged("")
    assert json.loads(text) == {
        "$schema": "https://opencode.ai/config.json",
        "model": "coder/smollm2",
        "provider": {"coder": provider_entry(CODER)},
    }
    assert text.startswith('{\n  "$schema": ')
    assert text.endswith("\n}\n")


def test_an_own_format_survives_byte_for_byte() -> None:
    before = (
        '{\n\t"theme" : "nord",\n\t"instructions": ["a.md",   "b.md"],\n'
        '\t"provider": {\n\t\t"mine": {"options": {"apiKey": "k", "x": 1.0}}\n\t},\n'
        '\t"$schema": "https://opencode.ai/config.json"\n}'
    )
    after = merged(before)
    assert after.startswith('{\n\t"theme" : "nord",\n\t"instructions": ["a.md",   "b.md"],\n')
    assert (
        '\n\t\t"mine": {"options": {"apiKey": "k", "x": 1.0}},\n\t\t"coder": {\n\t\t\t"npm"'
        in after
    )
    assert after.endswith('\n\t"model": "coder/smollm2"\n}')


def test_carriage_returns_stay_the_line_ending() -> None:
    after = merged('{\r\n  "theme": "x"\r\n}\r\n')
    assert after.count("\n") == after.count("\r\n") > 5


def test_a_configuration_on_one_line_stays_on_one_line() -> None:
    after = merged('{"$schema": "https://opencode.ai/config.json", "theme": "x"}\n')
    assert after.count("\n") == 1
    assert json.loads(after)["provider"]["coder"]["models"]["smollm2"]["limit"]["context"] == 8192


def test_nothing_changes_where_our_values_are_already_there() -> None:
    reordered = json.dumps(dict(reversed(list(json.loads(merged("")).items()))), indent=7)
    assert merged(reordered) == reordered


def test_a_changed_context_changes_the_model_and_nothing_else() -> None:
    before = merged('{"keep": [1,2]}').replace("8192", "4096")
    assert merged(before) == merged('{"keep": [1,2]}')


def test_true_is_not_taken_for_one() -> None:
    model = OpenCodeModel("m", "M", context=1, output=1)
    one = OpenCodeProvider("p", "P", "h/p", "http://h/v1", (model,))
    before = merged("", one).replace('"context": 1', '"context": true')
    assert '"context": 1' in merged(before, one)


def test_options_that_a_user_added_to_our_provider_survive() -> None:
    document = json.loads(merged(""))
    document["provider"]["coder"]["options"] |= {"timeout": 5, "baseURL": "http://old/v1"}
    after = json.loads(merged(json.dumps(document)))
    assert after["provider"]["coder"]["options"] == {
        "timeout": 5,
        "baseURL": "http://127.0.0.1:8888/v1",
    }


def test_a_model_that_the_server_has_no_more_goes() -> None:
    document = json.loads(merged(""))
    document["provider"]["coder"]["models"]["old"] = {"name": "old"}
    assert list(json.loads(merged(json.dumps(document)))["provider"]["coder"]["models"]) == [
        "smollm2"
    ]


def test_a_provider_that_left_the_fleet_stays() -> None:
    after = json.loads(merged(merged("", THINKER), CODER))
    assert list(after["provider"]) == ["deep", "coder"]
    assert after["model"] == "coder/smollm2"


def test_the_key_is_a_reference_to_a_file_of_the_user() -> None:
    options = json.loads(merged("", KEYED))["provider"]["coder"]["options"]
    assert options["apiKey"] == "{file:~/.config/opencode/llamaherd/coder.key}"


def test_our_key_reference_goes_when_the_server_needs_no_key() -> None:
    assert merged(merged("", KEYED), CODER) == merged("", CODER)


def test_a_key_of_the_user_stays_when_the_server_needs_none() -> None:
    before = merged("", KEYED).replace(
        "{file:~/.config/opencode/llamaherd/coder.key}", "{env:MINE}"
    )
    assert '"apiKey": "{env:MINE}"' in merged(before, CODER)


def test_a_thinking_model_keeps_its_thoughts_in_the_conversation() -> None:
    entry = provider_entry(THINKER)["models"]["glm"]
    assert entry["reasoning"] is True
    assert entry["interleaved"] == {"field": "reasoning_content"}


def test_the_field_of_the_thoughts_is_the_models() -> None:
    model = replace(THINKER.models[0], interleaved="reasoning_details")
    thinker = replace(THINKER, models=(model,))
    entry = provider_entry(thinker)["models"]["glm"]
    assert entry["interleaved"] == {"field": "reasoning_details"}


def test_a_model_with_a_projector_takes_images_and_files_may_be_attached() -> None:
    blind = provider_entry(THINKER)["models"]["glm"]
    assert (blind["modalities"]["input"], "attachment" in blind) == (["text"], False)
    seeing = replace(THINKER, models=(replace(THINKER.models[0], images=True),))
    entry = provider_entry(seeing)["models"]["glm"]
    assert entry["modalities"] == {"input": ["text", "image"], "output": ["text"]}
    assert entry["attachment"] is True


def test_opencode_is_told_only_that_a_model_calls_no_tools() -> None:
    # Its own default is true, and files of models that call tools stay as they are.
    assert "tool_call" not in provider_entry(THINKER)["models"]["glm"]
    talker = replace(THINKER, models=(replace(THINKER.models[0], tool_call=False),))
    assert provider_entry(talker)["models"]["glm"]["tool_call"] is False


def test_of_a_key_written_twice_the_one_that_counts_is_changed() -> None:
    after = merged('{"model": "a/b", "x": 1, "model": "c/d"}')
    assert '"model": "a/b"' in after
    assert json.loads(after)["model"] == "coder/smollm2"


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', ":3:3: not JSON", "mend the file or move it away"),
        ('{\n  /* open\n  "a": 1\n}', ":2:3: not JSON", "mend the file or move it away"),
        ('{\n  // mine\n  "a": [,]\n}', ":3:9: not JSON", "mend the file"),
        ("\n  [1]", ":2:3: it must be an object", "mend"),
        ('{"a":\n NaN}', ":2:2: NaN is not JSON", "take it out"),
        ('{"provider": [1]}', ":1:14: provider must be an object", "mend it"),
        (
            '{\n "provider": {"coder": {"options": null}}}',
            ":2:36: provider.coder.options must be an object",
            "mend it",
        ),
        ("[" * 100_000, ":1:1: nested too deeply", "mend"),
        ("\ufeff{}", ":1:1: not JSON", "mend"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_its_place(
    text: str, place: str, remedy: str
) -> None:
    with pytest.raises(JsonTextError) as caught:
        merged(text)
    assert str(caught.value).startswith(PLACE)
    assert place in str(caught.value)
    assert remedy in str(caught.value)


def test_the_system_configuration_keeps_prompts_in_the_house() -> None:
    assert json.loads(system_config(settings(CODER, THINKER))) == {
        "$schema": "https://opencode.ai/config.json",
        "enabled_providers": ["coder", "deep"],
        "share": "disabled",
        "autoupdate": False,
        "model": "coder/smollm2",
        "small_model": "coder/smollm2",
    }


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("", False),
        (merged("", KEYED), False),
        ('{"provider": {"x": {"options": {"apiKey": "sk-1"}}}}', True),
        ('{"provider": {"x": {"options": {"apiKey": "{env:K}"}}}}', False),
        ('{"mcp": {"x": {"headers": {"Authorization": "Bearer {env:K}"}}}}', False),
        ('{"mcp": {"x": {"headers": {"Authorization": "Bearer abc"}}}}', True),
        ('{"mcp": {"x": {"environment": {"ANY": "abc"}}}}', True),
        ("{broken", True),
    ],
)
def test_a_configuration_with_a_secret_in_the_open_is_known(text: str, secret: bool) -> None:
    assert holds_secret(text) is secret


names = st.text(max_size=6) | st.sampled_from(["provider", "model", "$schema", "coder", "options"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(names, children, max_size=3),
    max_leaves=12,
)
documents = st.dictionaries(names, values, max_size=5)
providers = st.lists(st.sampled_from([CODER, THINKER]), min_size=1, max_size=2, unique=True)


@given(documents, st.sampled_from([None, 0, 1, 2, 4, "\t"]), providers, st.booleans())
def test_every_value_that_is_not_ours_survives_any_document(
    document: dict[str, Any],
    indent: int | str | None,
    chosen: list[OpenCodeProvider],
    ascii_only: bool,
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    own = document.get("provider", {})
    entries = [own.get(p.id, {}) for p in chosen] if isinstance(own, dict) else [None]
    if not all(isinstance(e, dict) and isinstance(e.get("options", {}), dict) for e in entries):
        with pytest.raises(JsonTextError, match="must be an object"):
            merged(text, *chosen)
        return
    after_text = merged(text, *chosen)
    after = json.loads(after_text)
    assert merged(after_text, *chosen) == after_text
    assert after["model"] == f"{chosen[0].id}/{chosen[0].models[0].id}"
    for provider in chosen:
        entry = after["provider"][provider.id]
        assert entry["models"] == provider_entry(provider)["models"]
        assert entry["options"]["baseURL"] == provider.base_url
    for ours in ("model", "provider"):
        after.pop(ours)
    kept = {key: value for key, value in document.items() if key not in ("model", "provider")}
    kept.setdefault("$schema", "https://opencode.ai/config.json")
    assert after == kept
    others = document.get("provider", {})
    for key in set(others) - {provider.id for provider in chosen}:
        assert json.loads(after_text)["provider"][key] == others[key]


def test_a_provider_offers_every_model_of_its_server_and_starts_with_the_first() -> None:
    small = OpenCodeModel("small", "Small", context=8192, output=2048)
    router = replace(CODER, models=(MODEL, small))
    document = json.loads(merged("", router))
    assert list(document["provider"]["coder"]["models"]) == [MODEL.id, "small"]
    assert document["provider"]["coder"]["models"]["small"]["limit"]["context"] == 8192
    assert document["model"] == f"coder/{MODEL.id}"

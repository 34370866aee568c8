"""What each option of llama-server is to ``extra_args``: a setting's, refused, or free.

``recorded/llama_server_options.txt`` has the options of llama.cpp 0c1e570, a line each, as
common/arg.cpp spells them; a test of the lab holds it against a real ``llama-server --help``. An
option that a newer llama.cpp has must be put into one of the three lists here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inventories.llama_options import DANGEROUS, OPTIONS, PRESETS, managed, refusal

RECORDED = Path(__file__).with_name("recorded") / "llama_server_options.txt"
OLDER = {"--mmap", "--no-mmap", "--mlock"}  # builds that have --load-mode don't name them
PRESET_FILES = {"--load-on-startup"}  # a key of preset files, no argument
# Words that change neither what a fleet file says, nor what clients may do on the host.
_FREE = """
--adaptive-decay --adaptive-target --backend-sampling --cache-idle-slots --cache-prompt
--check-tensors --checkpoint-min-step --cont-batching --context-shift --control-vector
--control-vector-layer-range --control-vector-scaled --cors-credentials --cors-headers
--cors-methods --cpu-mask --cpu-mask-batch --cpu-range --cpu-range-batch --cpu-strict
--cpu-strict-batch --ctx-checkpoints --defrag-thold --dry-allowed-length --dry-base
--dry-multiplier --dry-penalty-last-n --dry-sequence-breaker --dynatemp-exp --dynatemp-range
--embd-normalize --embedding --escape --fit --fit-ctx --fit-target --frequency-penalty --grammar
--grammar-file --ignore-eos --image-max-tokens --image-min-tokens --json-schema --json-schema-file
--keep --kv-offload --lazy-mode --log-colors --log-disable --log-file --log-jsonl --log-prefix
--log-prompts-dir --log-timestamps --logit-bias --lookup-cache-dynamic --lookup-cache-static
--mirostat --mirostat-ent --mirostat-lr --mmproj-device --mmproj-offload --models-autoload
--mtmd-batch-max-tokens --n-cpu-ffn --no-agent --no-host --no-ui-mcp-proxy --override-kv
--override-tensor --perf --poll --poll-batch --pooling --predict --prefill-assistant
--presence-penalty --prio --prio-batch --props --reasoning-budget-message --reasoning-effort
--reasoning-preserve --repack --repeat-last-n --rerank --reverse-prompt --rope-freq-base
--rope-freq-scale --rope-scale --rope-scaling --rpc --sampler-seq --samplers --seed
--skip-chat-parsing --slot-prompt-similarity --slots --spec-draft-backend-sampling
--spec-draft-cpu-mask --spec-draft-cpu-mask-batch --spec-draft-cpu-moe --spec-draft-cpu-range
--spec-draft-cpu-strict --spec-draft-cpu-strict-batch --spec-draft-device --spec-draft-n-cpu-moe
--spec-draft-override-tensor --spec-draft-p-split --spec-draft-poll --spec-draft-poll-batch
--spec-draft-prio --spec-draft-prio-batch --spec-draft-threads --spec-draft-threads-batch
--spec-draft-type-k --spec-draft-type-v --spec-ngram-map-k-min-hits --spec-ngram-map-k-size-m
--spec-ngram-map-k-size-n --spec-ngram-map-k4v-min-hits --spec-ngram-map-k4v-size-m
--spec-ngram-map-k4v-size-n --spec-ngram-min-hits --spec-ngram-mod-n-match --spec-ngram-mod-n-max
--spec-ngram-mod-n-min --spec-ngram-simple-min-hits --spec-ngram-simple-size-m
--spec-ngram-simple-size-n --spec-ngram-size-m --spec-ngram-size-n --spec-synth-len
--spec-synth-rates --special --spm-infill --sse-ping-interval --tags --threads-http --timeout
--top-nsigma --typical --ui --ui-config --ui-config-file --verbose --verbosity --video-ffmpeg-dir
--video-fps --video-timestamp-interval --warmup --xtc-probability --xtc-threshold
--yarn-attn-factor --yarn-beta-fast --yarn-beta-slow --yarn-ext-factor --yarn-orig-ctx
"""
FREE = frozenset(_FREE.split())
EVERYTHING = {option.setting: True for option in OPTIONS if option.setting}


def recorded() -> dict[str, tuple[frozenset[str], str]]:
    """All spellings and the variable of each option, by each of its spellings."""
    found = {}
    for line in RECORDED.read_text("utf-8").splitlines():
        names, _, variable = line.partition(" (env: ")
        entry = frozenset(names.split(", ")), variable.removesuffix(")")
        found |= dict.fromkeys(entry[0], entry)
    return found


def test_every_option_is_a_settings_or_refused_or_free() -> None:
    for name, (spellings, _) in recorded().items():
        kept = managed(name, EVERYTHING) is not None or refusal(name) is not None
        own = any(option.name in spellings and not option.setting for option in OPTIONS)
        free = bool(FREE & spellings) or own
        # Some options are refused, and free where they say the opposite.
        assert kept or free, f"{name}: put it into OPTIONS, REFUSED or FREE"
        assert not (name in FREE and kept), name
    assert set(recorded()) >= FREE, "there is no such option"


def test_the_table_spells_each_option_as_it_is_recorded() -> None:
    known = recorded()
    for option in OPTIONS:
        if option.name not in OLDER | PRESET_FILES:
            assert known[option.name] == (frozenset(option.spellings), option.env), option.name


def test_no_server_is_handed_to_its_clients_by_a_free_word() -> None:
    dangerous = {name for name in recorded() if name.startswith(DANGEROUS)}
    assert dangerous
    assert all(refusal(name) for name in dangerous)
    assert not dangerous & FREE


@pytest.mark.parametrize("preset", [*PRESETS, "--some-later-model-default", "--fim-later"])
def test_a_built_in_model_is_refused_and_so_is_one_of_a_later_llama_cpp(preset: str) -> None:
    option = managed(preset, {})
    assert option is not None
    assert option.setting == "model"


def test_built_in_speculation_needs_no_model() -> None:
    assert managed("--spec-default", {}) is None
    assert managed("--spec-default", {"draft": {"model": "small"}}) is not None


@pytest.mark.parametrize(
    "argument", ["--ctx-size", "--ctx_size", "--ctx-size=1", "--ctx-size 4096", "-c 4096", "-c\t1"]
)
def test_a_managed_option_is_known_however_it_is_written(argument: str) -> None:
    option = managed(argument, {})
    assert option is not None
    assert option.setting == "context"


def test_an_option_and_its_value_are_two_words_and_a_value_with_a_blank_is_one() -> None:
    said = refusal("--reverse-prompt hunter2")
    assert (
        said == "arguments are one word each: write --reverse-prompt and its value as two entries"
    )
    assert refusal("- a list item") is None
    assert refusal("-- hi") is None
    assert refusal("a text with blanks") is None
    assert refusal("-0.5") is None


def test_the_recorded_options_are_lines_of_spellings() -> None:
    for line in RECORDED.read_text("utf-8").splitlines():
        assert re.fullmatch(r"-[\w.-]+(, -[\w.-]+)*( \(env: \w+\))?", line), line

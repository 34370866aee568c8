"""What a server loads beside its model: adapters, a draft model, a chat template. Pure.

Upstream behaviour relied on (llama.cpp's common/arg.cpp and common/speculative.cpp at 0c1e570):
``--lora-scaled`` takes ``FILE:SCALE`` pairs with commas between them, and numbers adapters in that
order; options of draft models are spelled ``--spec-draft-*`` now, and the old spellings of their
limits only say that they were removed; where a build has both ``--spec-draft-model`` and
``--spec-type``, a draft model without a type is loaded and not used. That the vocabularies of both
models agree is checked by llama-server alone, at its start: their type, whether they begin and end
texts by themselves and with which token, sizes at most 128 apart, the same text for each token.
"""

from __future__ import annotations

from collections.abc import Mapping

from deploys.llama_server.errors import ServerError
from inventories.settings import DraftSettings, ModelSettings

_SPELLINGS: Mapping[str, tuple[str, str]] = {
    "model": ("--spec-draft-model", "--model-draft"),
    "max": ("--spec-draft-n-max", "--draft-max"),
    "min": ("--spec-draft-n-min", "--draft-min"),
    "p_min": ("--spec-draft-p-min", "--draft-p-min"),
    "gpu_layers": ("--spec-draft-ngl", "--gpu-layers-draft"),
}


def adapter_values(model: ModelSettings) -> dict[str, str]:
    """The option that loads a model's adapters, as option and value; none for none."""
    if not model.adapters:
        return {}
    pairs = [f"{model.directory}/{each.file}:{each.scale:g}" for each in model.adapters]
    return {"--lora-scaled": ",".join(pairs)}


def draft_values(
    server: str, draft: DraftSettings, model: ModelSettings, options: frozenset[str]
) -> dict[str, str]:
    """Options of speculative decoding, as option and value, in the spelling of the build.

    + server: its name, for messages
    + model: the draft model
    + options: what the installed llama-server knows; empty when nobody could ask it

    Raises :class:`ServerError` for what the build can't do.
    """
    settings = {
        "model": model.path,
        "max": draft.max,
        "min": draft.min,
        "p_min": draft.p_min,
        "gpu_layers": draft.gpu_layers,
    }
    values = {
        _spelling(server, key, options): f"{value}"
        for key, value in settings.items()
        if value is not None
    }
    if not options or ("--spec-draft-model" in options and "--spec-type" in options):
        return {"--spec-type": draft.type, **values}
    if draft.type != "draft-simple":
        raise ServerError(
            f"servers.{server}.draft.type: this llama.cpp knows draft-simple alone, not "
            f"{draft.type}: choose another draft model or a newer llama_cpp.ref"
        )
    return values


def _spelling(server: str, key: str, options: frozenset[str]) -> str:
    new, old = _SPELLINGS[key]
    if not options or new in options:
        return new
    if old in options:
        return old
    raise ServerError(
        f"servers.{server}.draft.{key}: this llama.cpp knows neither {new} nor {old}: "
        "remove the setting, or choose another llama_cpp.ref"
    )

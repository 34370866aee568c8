"""What the models of a server want of memory, by all its settings. Pure."""

from __future__ import annotations

from collections.abc import Callable

from inventories.llama_options import process_words
from inventories.server_rules import DEFAULT_MODELS_MAX
from inventories.settings import ServerSettings
from inventories.sizing.dimensions import Dimensions, SizingError
from inventories.sizing.estimate import Load, draft_bytes, estimate
from inventories.sizing.options import load_of
from inventories.sizing.placement import Want

Known = Callable[[str], tuple[Dimensions, int] | None]
"""A model's dimensions, and bytes of its projector and adapters; None for one nobody knows."""


def server_load(server: ServerSettings) -> Load | None:
    """How a server runs its model; None where a setting places things by hand."""
    return load_of(server.context, server.parallel, process_words(server))


def wants_of(server: ServerSettings, known: Known) -> list[Want]:
    """What a server wants at its worst: of a router, the biggest of its models that it loads at
    once. Models whose needs nobody can tell are left out.
    """
    found = []
    for served in server.served:
        load, model = server_load(served), known(served.model)
        if load is not None and model is not None:
            extra = model[1] + _draft(served, load, known)
            found.append(Want(server.name, served.model, model[0], load, served.gpus, extra))
    found.sort(key=_size, reverse=True)
    limit = DEFAULT_MODELS_MAX if server.models_max is None else server.models_max
    return found[: limit or None]


def _draft(server: ServerSettings, load: Load, known: Known) -> int:
    """Bytes of a server's draft model; 0 for none, and for one that nobody knows."""
    drafts = None if server.draft is None else known(server.draft.model)
    return 0 if drafts is None else draft_bytes(drafts[0], load)


def _size(want: Want) -> int:
    try:
        return estimate(want.dimensions, want.load, want.extra).total(1)
    except SizingError:
        return 0

"""What of a fleet's model is known about its memory: by the lock, else by the catalogue. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inventories import catalogue
from inventories.fleet import Fleet
from inventories.lock import Lock, model_request
from inventories.sizing.dimensions import Dimensions


@dataclass(frozen=True)
class KnownModel:
    """A model whose memory can be worked out.

    + source: ``lock`` (its own header) or ``catalogue`` (the file's size, split by shares)
    + quant: None where neither says it
    + extra: bytes of a projector's file and of adapters
    """

    dimensions: Dimensions
    source: Literal["lock", "catalogue"]
    quant: str | None = None
    extra: int = 0


def known_model(fleet: Fleet, lock: Lock | None, name: str) -> KnownModel | None:
    """A model of the fleet; None where nothing is known. KeyError when the fleet has none.

    A pin that answers another request than the fleet's is passed over: its file is another one.
    """
    pin = lock.models.get(name) if lock is not None else None
    values = fleet.models[name]
    if pin is not None and pin.dimensions is not None and pin.request == model_request(fleet, name):
        extra = sum(file.size for file in pin.files if file.name == pin.mmproj)
        extra += sum(file.size for file in (pin.adapters or {}).values())
        return KnownModel(pin.dimensions, "lock", None, extra)
    if not values.get("catalogue"):
        return None
    entry = catalogue.entry(values["catalogue"])
    own = values.get("hub", {})
    quantization = entry.quantization(own.get("quant") or "")
    if quantization is None or own.get("repo") != entry.repo:
        return None
    return KnownModel(entry.dimensions_of(quantization), "catalogue", quantization.name)

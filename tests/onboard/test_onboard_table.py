"""The report as people and programs read it."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest
from onboard_support import (
    BARE_CARD,
    CARD_4090,
    CARD_5090,
    LSPCI_4090,
    LSPCI_5090,
    ROW_4090,
    ROW_5090,
    TARGET,
    WORKING,
    box,
    report,
)

from facts.found_models import FoundModel
from facts.onboarding_values import HubAnswer
from llamaherd.onboard.report import Contact, Report, Step, document
from llamaherd.onboard.serves import fits_of, serves_of
from llamaherd.onboard.table import render, summary
from schemas.validate import load_schema

TWO = WORKING | {
    "lspci": f"{LSPCI_4090}\n{LSPCI_5090}",
    "gpus": f"{ROW_4090}\n{ROW_5090}",
    "cards": f"{CARD_4090}\n{CARD_5090}",
}


def sized() -> Report:
    """A box with two cards and everything that a report can hold."""
    models = tuple(FoundModel("file", f"m{n}.gguf", f"/models/m{n}.gguf", 5) for n in range(20))
    probe = replace(box(**TWO), models=models, hub=HubAnswer("https://h.org", True, "", 9_000_000))
    serves, note = serves_of(probe, None)
    steps = (Step("record a key", "forget it", True),)
    fits = fits_of(probe, None)
    return replace(report(probe), serves=serves, serves_note=note, steps=steps, fits=fits)


REPORTS = {
    "two cards": sized,
    "blocked": lambda: report(box(**BARE_CARD)),
    "not reached": lambda: report(None, Contact(error="connection refused")),
}


@pytest.mark.parametrize("kind", REPORTS)
def test_the_schema_describes_the_document(kind: str) -> None:
    printed = json.loads(json.dumps(document((REPORTS[kind](),))))
    jsonschema.validate(printed, load_schema("onboard.report.schema.json"))
    assert printed["ok"] == (kind == "two cards")


@pytest.mark.parametrize("kind", REPORTS)
def test_it_fits_80_columns(kind: str) -> None:
    assert max(len(line) for line in render(REPORTS[kind]()).splitlines()) <= 80


def test_it_tells_what_the_box_is_and_can_serve() -> None:
    text = render(sized())
    for words in (
        "10.0.0.17  (ready)",
        "1: NVIDIA GeForce RTX 5090, 32 GiB, compute 12.0",
        "580.65.06, open modules, runs CUDA up to 13.0",
        "https://h.org: 9.0 MB/s",
        "and 12 more (--json lists them)",
        "recommended: glm-4.7-flash",
        "unlike cards",
    ):
        assert words in text


def test_a_card_that_cannot_be_used_stands_beside_the_others() -> None:
    assert "not usable: AD102 [GeForce RTX 4090] at 0000:01:00.0" in render(
        report(box(**BARE_CARD))
    )


def test_what_is_recommended_leaves_room_for_an_agent_on_the_smallest_card() -> None:
    first, *others = sized().serves
    assert (first.model, first.gpus) == ("glm-4.7-flash", (0,))
    assert first.context >= 65536
    together = first.weights + first.cache + first.compute + first.margin
    assert together <= 24564 * 1024**2
    assert {model.model for model in others} >= {"gpt-oss-20b", "llama-3.1-8b"}


def test_nothing_is_sized_without_a_card_that_works() -> None:
    assert serves_of(box(**BARE_CARD), None) == (
        (),
        "not sized: the driver shows no GPU with memory of its own",
    )


def test_several_boxes_side_by_side() -> None:
    reports = [sized(), report(box(**BARE_CARD)), report(None, Contact(error="refused"))]
    named = [
        replace(one, target=replace(TARGET, alias=name))
        for name, one in zip(("big", "new", "gone"), reports, strict=True)
    ]
    lines = summary(named).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["big", "ready"],
        ["new", "blocked"],
        ["gone", "unreached"],
    ]
    assert "4090, 5090" in lines[1]
    assert "driver.missing" in lines[2]
    assert lines[-1] == "1 of 3 ready"


def test_every_model_on_each_card_and_the_pair_is_in_the_document() -> None:
    rows = sized().to_document()["fits"]
    models = {row["model"] for row in rows}
    assert models >= {"glm-4.7-flash", "gpt-oss-20b", "qwen3-coder-next"}
    for model in models:
        mine = [row for row in rows if row["model"] == model]
        assert {len(row["gpus"]) for row in mine} == {1, 2}
        assert {row["kv"] for row in mine} == {"f16", "q8_0", "q4_0"}
    assert fits_of(box(**BARE_CARD), None) == ()
    assert fits_of(None, None) == ()


def test_one_box_by_two_logins_is_told_apart() -> None:
    logins = [replace(TARGET, given=f"{user}@10.0.0.17") for user in ("ops", "dev")]
    lines = summary([replace(sized(), target=target) for target in logins]).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["ops@10.0.0.17", "dev@10.0.0.17"]

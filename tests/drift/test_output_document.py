"""The report's JSON form: its schema, and back."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from output_support import REPORT_SETTINGS, REPORTS, office

from llamaherd.drift.report import (
    COMPONENTS,
    VERSION,
    DriftReport,
    failures,
    from_document,
    to_document,
)

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "schemas" / "drift.report.schema.json").read_text()
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_schema_and_code_know_the_same_version_and_components() -> None:
    assert SCHEMA["properties"]["version"]["const"] == VERSION
    assert tuple(SCHEMA["$defs"]["finding"]["properties"]["component"]["enum"]) == COMPONENTS


@pytest.mark.parametrize(
    ("name", "shape"), [("report", SCHEMA), *SCHEMA["$defs"].items()], ids=lambda value: str(value)
)
def test_every_key_is_described_and_required(name: str, shape: dict[str, object]) -> None:
    properties = shape["properties"]
    assert isinstance(properties, dict)
    assert [key for key, value in properties.items() if "description" not in value] == []
    assert sorted(shape["required"]) == sorted(properties), name  # type: ignore[call-overload]
    assert shape["additionalProperties"] is False


def test_every_example_keeps_to_its_own_schema() -> None:
    for shape in (SCHEMA, *SCHEMA["$defs"].values()):
        for key, value in shape["properties"].items():
            for example in value.get("examples", ()):
                jsonschema.validate(example, value | {"$defs": SCHEMA["$defs"]}), key


@REPORT_SETTINGS
@given(REPORTS)
def test_the_schema_accepts_the_document_of_any_report(report: DriftReport) -> None:
    VALIDATOR.validate(json.loads(json.dumps(to_document(report))))


@REPORT_SETTINGS
@given(REPORTS)
def test_a_document_reads_back_as_the_report_it_was_made_of(report: DriftReport) -> None:
    assert from_document(to_document(report)) == report


@REPORT_SETTINGS
@given(REPORTS)
def test_failures_are_empty_exactly_when_the_exit_status_is_0(report: DriftReport) -> None:
    assert (failures(report) == []) == (report.exit_code == 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("version", 2), ("state", "unreachable"), ("exit_code", 3), ("started", "yesterday")],
)
def test_the_schema_refuses_what_no_report_says(key: str, value: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(to_document(office()) | {key: value})


def test_the_schema_refuses_a_key_that_it_does_not_know() -> None:
    with pytest.raises(jsonschema.ValidationError, match="unexpected"):
        VALIDATOR.validate(to_document(office()) | {"surprise": 1})

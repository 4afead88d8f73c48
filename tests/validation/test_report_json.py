"""report.json against its schema, which describes every field there is and refuses what is none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from importlib import resources
from typing import Any

import jsonschema
import pytest

import reports
from demitasse.ir.graph import Status
from demitasse_validation import report as kinds
from demitasse_validation.report import Report

SCHEMA: dict[str, Any] = json.loads((resources.files(kinds) / "schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema"]["const"] == kinds.SCHEMA


@pytest.mark.parametrize("report", [reports.mixed(), reports.hostile(), reports.large(3, 2)])
def test_a_report_keeps_to_the_schema(report: Report) -> None:
    VALIDATOR.validate(json.loads(report.to_json()))


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("finding", kinds.Finding),
        ("layer", kinds.LayerResult),
        ("class", kinds.Class),
        ("ranked", kinds.Ranked),
        ("ranks", kinds.RankResult),
        ("runtime", kinds.RuntimeReport),
        ("artifact", kinds.ArtifactReport),
        (None, kinds.Report),
    ],
)
def test_the_schema_describes_every_field(name: str | None, record: type) -> None:
    described = SCHEMA if name is None else SCHEMA["$defs"][name]
    verdict = {"passed"} if hasattr(record, "passed") else set()
    assert set(described["properties"]) == {field.name for field in fields(record)} | verdict
    assert set(described["required"]) <= set(described["properties"])


def test_the_schema_knows_every_status_and_severity() -> None:
    assert set(SCHEMA["$defs"]["layer"]["properties"]["status"]["enum"]) == {each.value for each in Status}
    assert set(SCHEMA["$defs"]["finding"]["properties"]["severity"]["enum"]) == {each.value for each in kinds.Severity}
    roles = {each.value for each in kinds.Role}
    assert set(SCHEMA["$defs"]["layer"]["properties"]["role"]["enum"]) == roles | {None}


def _without_verdict(data: dict[str, Any]) -> None:
    del data["passed"]


def _another_version(data: dict[str, Any]) -> None:
    data["schema"] = kinds.SCHEMA + 1


def _a_verdict_in_words(data: dict[str, Any]) -> None:
    data["artifacts"][0]["passed"] = "yes"


def _a_status_of_its_own(data: dict[str, Any]) -> None:
    data["artifacts"][0]["layers"][0]["status"] = "fine"


def _a_figure_in_words(data: dict[str, Any]) -> None:
    data["artifacts"][0]["layers"][0]["metrics"]["max_abs"] = "small"


def _half_a_hash(data: dict[str, Any]) -> None:
    data["source"][0]["sha256"] = "00"


@pytest.mark.parametrize(
    "spoil",
    [_without_verdict, _another_version, _a_verdict_in_words, _a_status_of_its_own, _a_figure_in_words, _half_a_hash],
)
def test_the_schema_refuses_what_is_no_report(spoil: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(reports.mixed().to_json())
    spoil(data)
    assert not VALIDATOR.is_valid(data)


def test_what_json_has_no_numbers_for_is_spelled() -> None:
    report = reports.report(reports.artifact("net.onnx", [reports.compared("c", math.nan), reports.compared("d", 0.0)]))
    spoiled, exact = json.loads(report.to_json())["artifacts"][0]["layers"]
    assert spoiled["metrics"]["relative_to_peak"] == "nan"
    assert exact["metrics"]["sqnr_db"] == "inf"

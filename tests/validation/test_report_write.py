"""Writing a report's files: all of them, none of them half, and an earlier report is safe from a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import reports
from demitasse.errors import UsageError
from demitasse_validation.report.write import write_report

NAMES = ["report.json", "junit.xml", "report.md", "report.html"]


def test_all_forms_are_written_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    paths = write_report(reports.mixed(), folder)
    assert paths == [folder / name for name in NAMES]
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert json.loads(paths[0].read_text("utf-8"))["passed"] is False


def test_what_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    for path in write_report(reports.hostile(), tmp_path):
        path.read_text("utf-8")


def test_earlier_reports_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_report(reports.mixed(), tmp_path)
    write_report(reports.report(reports.artifact("net.onnx", [])), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["passed"] is True
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(reports.mixed(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_text

    def write_until_full(path: Path, text: str, *options: Any) -> int:
        if "report.md" in path.name:
            write(path, text[:10], *options)
            raise OSError(28, "No space left on device")
        return write(path, text, *options)

    monkeypatch.setattr(Path, "write_text", write_until_full)
    with pytest.raises(UsageError, match="can't be written: No space left on device"):
        write_report(reports.report(reports.artifact("net.onnx", [])), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UsageError, match="can't be written"):
        write_report(reports.mixed(), tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"

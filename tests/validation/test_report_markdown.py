"""report.md: what a reader of a pull request sees, how it is cut to fit, and that no name of a file can act in it."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

import reports
from demitasse_validation.report import Report
from demitasse_validation.report.markdown import LIMIT, to_markdown

PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")

# The tags that the report itself writes.
TAGS = re.compile(r"</?(?:details|summary|code|br)>")


def tokens(text: str) -> list[Token]:
    parsed = PARSER.parse(text)
    return [each for token in parsed for each in [token, *(token.children or [])]]


def summaries(text: str) -> list[str]:
    return [re.sub("<[^>]*>", "", line) for line in text.splitlines() if line.startswith("<details>")]


def test_the_verdict_is_on_top_and_the_first_divergence_follows() -> None:
    text = to_markdown(reports.mixed())
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "## ❌ Failed: 1 of 2 artifacts"
    assert lines[1].startswith("`net.prototxt` (caffe) on 2 samples (images)")
    assert any(line.startswith("| ✅ | `net.onnx` | 2.0e-6 at `conv1` |") for line in lines)
    assert any(line.startswith("| ❌ | `net.tflite` | NaN at `data` |") for line in lines)
    assert text.index("> ❌ `net.tflite` first diverges at layer 'conv1', net.prototxt:3") < text.index("### Findings")
    assert "it lacks the source's output 'aux'" in text
    assert "| ❌ | `cat.jpg` | `cat` 0.7500 | `dog` 0.2500 | 0.5 |" in text


def test_only_what_fails_stands_open() -> None:
    text = to_markdown(reports.mixed())
    assert "### Worst layers of `net.tflite`" in text
    assert "Worst layers of net.onnx" in summaries(text)
    good = to_markdown(reports.report(reports.mixed().artifacts[0]))
    assert good.startswith("## ✅ Every gate holds")
    assert "### Findings" not in good
    assert ">" not in [line[:1] for line in good.splitlines()]


@pytest.mark.parametrize("limit", [2_000, 5_000, 20_000, LIMIT])
@pytest.mark.parametrize("report", [reports.large(2000, 300), reports.mixed(), reports.hostile()])
def test_it_fits_and_is_whole(report: Report, limit: int) -> None:
    text = to_markdown(report, limit=limit)
    assert len(text.encode()) <= limit
    assert text.count("<details>") == text.count("</details>")
    for table in re.split(r"\n\n", text):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(cells) <= 1, table


def test_it_says_what_was_left_out() -> None:
    whole = to_markdown(reports.large(30, 4))
    assert "no room" not in whole.lower()
    cut = to_markdown(reports.large(2000, 300))
    shown = len(re.findall(r"^\| \d+ \| `stage", cut, re.MULTILINE))
    left_out = int(re.findall(r"\*(\d+) more rows have no room here", cut)[-1])
    assert shown + left_out == 2000
    small = to_markdown(reports.large(2000, 300), limit=3000)
    assert small.startswith("## ❌ Failed: 1 of 5 artifacts")
    assert "*No room here for" in small


def test_nothing_that_a_file_says_acts() -> None:
    text = to_markdown(reports.hostile())
    found = tokens(text)
    assert not [token for token in found if token.type in {"link_open", "image", "em_open"}]
    html = "".join(token.content for token in found if token.type in {"html_block", "html_inline"})
    assert not re.search("<[^>]*>", TAGS.sub("", html))
    # A name and a number after these signs would call a person and refer to an issue, if not quoted as code.
    plain = "".join(token.content for token in found if token.type == "text")
    assert not re.search(r"(?<![\w\u2060])[@#]\w", plain)
    codes = [token.content for token in found if token.type == "code_inline"]
    assert any(code.startswith("</td><script>alert(1)</script>") for code in codes)
    assert not re.search("[\x00-\x09\x0b-\x1f]", text)

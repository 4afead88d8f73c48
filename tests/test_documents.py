"""What the documents show is what the code prints and reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from demitasse.cli import main
from demitasse.preprocess import from_toml
from demitasse_validation.mapping import Places
from demitasse_validation.tolerances import Tolerances

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


@pytest.mark.parametrize(
    ("heading", "load"), [("Preprocessing", from_toml), ("Tolerances", Tolerances.load), ("Map", Places.load)]
)
def test_an_example_of_a_file_can_be_read(heading: str, load: Callable[[Path], object], tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "files.md").read_text("utf-8")
    (example,) = re.findall(rf"^## {heading}$.*?^```toml$(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    path = tmp_path / "example.toml"
    path.write_text(example, "utf-8")
    load(path)

"""The text format: equal to protobuf's library on real files, exact about places, and linear in hostile ones."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_protobuf import assert_same, net_parameter
from demitasse.errors import MalformedModel
from demitasse.readers.caffe import prototxt
from demitasse.readers.caffe.message import Message, Word
from demitasse.readers.caffe.prototxt import parse
from demitasse.readers.caffe.schema import message_spec


def values(text: str | bytes, name: str = "a") -> list[Any]:
    data = text.encode() if isinstance(text, str) else text
    return [entry.value for entry in parse(data, "net.prototxt").all(name)]


def compared_with_protobuf(folder: Path) -> int:
    from google.protobuf import text_format  # type: ignore[import-untyped]

    compared = 0
    for path in sorted(folder.rglob("*.prototxt")):
        data = path.read_bytes()
        ours = parse(data, str(path))
        try:
            theirs = text_format.Parse(data.decode("utf-8", "replace"), net_parameter()(), allow_unknown_field=True)
        except text_format.ParseError:  # a V1 layer type of a fork
            continue
        assert_same(theirs, ours, message_spec("NetParameter"))
        compared += 1
    return compared


def test_golden_nets_say_what_protobuf_finds(golden: Path) -> None:
    assert compared_with_protobuf(golden) > 100


@pytest.mark.slow
def test_real_nets_say_what_protobuf_finds(zoo: Path) -> None:
    assert compared_with_protobuf(zoo) > 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1", [1]),
        ("a: -1 a: - 2", [-1, -2]),
        ("a: 0x1F a: -0Xff a: 017 a: 0", [31, -255, 15, 0]),
        ("a: 1.5 a: .5 a: 1. a: 1e3 a: 2E-1 a: 3f a: 1.5F", [1.5, 0.5, 1.0, 1000.0, 0.2, 3.0, 1.5]),
        ("a: -inf a: - Infinity", [-math.inf, -math.inf]),
        ("a: inf a: true a: MAX", [Word("inf"), Word("true"), Word("MAX")]),
        ("a: 123456789012345678901234567890", [123456789012345678901234567890.0]),
        ("a: [1, 2,3] a: [] a: [ MAX , AVE ]", [1, 2, 3, Word("MAX"), Word("AVE")]),
        ("a: 1; a: 2, a: 3", [1, 2, 3]),
        ("a:1a2:2", None),
        ("a: 'it''s' a: \"a\" 'b'\n\"c\"", ["its", "abc"]),
        (r'a: "\n\t\\\"\x41\101\u00e9"', ['\n\t\\"AA\u00e9']),
        (r'a: "\303\251"', ["\u00e9"]),
        ("a: 'x' # said 'y'\n#\na: 'z#'", ["x", "z#"]),
        ("\ufeffa: 1", [1]),
        (b"# \xb0\xfa\na: '\xb0'", ["\\xb0"]),
        ("a: 1\r\n\ta:\f2\v", [1, 2]),
        ("", []),
    ],
)
def test_values_in_all_their_spellings(text: str | bytes, expected: list[Any] | None) -> None:
    if expected is None:
        with pytest.raises(MalformedModel):
            values(text)
    else:
        found = values(text)
        assert found == expected
        assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize("text", ["a { b: 1 }", "a: { b: 1 }", "a < b: 1 >", "a: <b: 1;>;", "a [{ b: 1 }]", "a{b:1},"])
def test_blocks_in_all_their_spellings(text: str) -> None:
    (block,) = values(text)
    assert isinstance(block, Message)
    assert [entry.value for entry in block] == [1]


def test_every_field_knows_its_line() -> None:
    net = parse(
        b'name: "n"\nlayer {\n  # first\n  type: "ReLU" top: "a"\n\n  relu_param { slope: 1\n}}\n', "net.prototxt"
    )
    (layer,) = net.messages("layer")
    assert layer.where() == "net.prototxt:2"
    assert [layer.where(name) for name in ("type", "top", "relu_param", "absent")] == [
        f"net.prototxt:{line}" for line in (4, 4, 6, 2)
    ]


def test_a_blob_in_text_is_one_array() -> None:
    first, rest, last = values("data: 1 data: 2.5 data: -3e1\ndata: nan\n# on\ndata: 5", "data")
    assert (first, last) == (1, 5)
    np.testing.assert_array_equal(rest, [2.5, -30.0, math.nan])


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("layer {\n  num_output = 3\n}", "2:14", "expected ':' or '{' after 'num_output', found '='"),
        ("layer {\n  name: 'a'\n", "3:1", "to close the block that begins on line 1, found the end of the file"),
        ("layer {\n}\n}", "3:1", "expected a field's name, found '}'"),
        ("a <\n}", "2:1", "expected a field's name or '>'"),
        ("a: 'open\n", "1:4", "found a string that isn't closed on its line"),
        ("a: 3abc", "1:4", "found 3abc, which is no number"),
        ("a: 1.2.3", "1:4", "found 1.2.3, which is no number"),
        ("a: 08", "1:4", "expected an octal number"),
        ("a: ", "1:4", "expected a value, found the end of the file"),
        ("a: }", "1:4", "expected a value, found '}'"),
        ("a: [1 2]", "1:7", "expected ',' or ']', found '2'"),
        ("a [1]", "1:4", "expected '{' in a list without ':'"),
        ("a 1", "1:3", "expected ':' or '{' after 'a', found '1'"),
        (r"a: 'x\q'", "1:4", "unknown escape"),
        ("a: 1 \x07", "1:6", r"found '\x07'"),
        ("a{" * 200, "1:202", "no more than 100 blocks within each other"),
    ],
)
def test_a_syntax_error_names_its_place_and_shows_the_line(text: str, place: str, message: str) -> None:
    with pytest.raises(MalformedModel, match=re.escape(message)) as caught:
        values(text)
    assert caught.value.where == f"net.prototxt:{place}"
    _, shown, mark = str(caught.value).split("\n")
    column = int(place.partition(":")[2]) - 1
    line = text.split("\n")[int(place.partition(":")[0]) - 1]
    assert shown.strip() in line
    assert mark == " " * (4 + min(column, 60)) + "^"


@pytest.mark.parametrize(
    "text",
    [
        "a{" * 200_000,
        "#" * 2_000_000,
        " \n" * 1_000_000 + "=",
        'a:"' + "\\" * 1_000_001,
        "data: 1 x: " * 100_000,
        "data: 1 " * 200_000 + "x",
        "a: '" + "' '" * 200_000 + "'",
        "a:" + "1" * 1_000_000,
        "a: -" * 200_000,
    ],
    ids=["blocks", "comment", "blanks", "escapes", "broken_runs", "run", "strings", "digits", "signs"],
)
def test_hostile_text_takes_no_longer_than_any_other(text: str) -> None:
    """Nothing is timed; a parser that tries things twice would not come back from these."""
    with contextlib.suppress(MalformedModel):
        values(text)


def test_more_fields_or_bytes_than_any_net_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prototxt, "_MAX_FIELDS", 100)
    values("a: 1 " * 100)
    for text in ("a: 1 " * 101, "a {" * 50 + "}" * 50 + "a {}" * 51, "a: [" + "1, " * 100 + "1]"):
        with pytest.raises(MalformedModel, match="at most 100 fields"):
            values(text)
    monkeypatch.setattr(prototxt, "_MAX_BYTES", 10)
    with pytest.raises(MalformedModel, match="11 bytes of text; at most 10 are read"):
        values(" " * 11)

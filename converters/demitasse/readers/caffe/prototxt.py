"""Parse protobuf's text format, the notation of prototxt files, keeping lines and unknown fields.

Grammar: https://protobuf.dev/reference/protobuf/textformat-spec. The parser knows no schema: it returns names
and values as they are written, and the line of each. It runs in time linear in the text, and limits nesting
and the number of fields.
"""

from __future__ import annotations

import re
import sys

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.readers.caffe.message import Array, Message, Source, Value, Word

__all__ = ["parse"]

_MAX_BYTES = 256 * 2**20
_MAX_FIELDS = 1_000_000
_MAX_DEPTH = 100  # protobuf's own limit

_REAL = r"(?:\d++\.\d*+|\.\d++|\d++(?=[eEfF]))(?:[eE][-+]?\d++)?[fF]?"
_SKIPPED = r"(?:[ \t\r\n\f\v]++|\#[^\n]*+)*+"  # blanks and comments; possessive, so that nothing is tried twice
_BLANKS = re.compile(_SKIPPED)
_NUMBER_LIKE = re.compile(r"-?[.\d][-+.\w]*+", re.ASCII)
_TOKEN = re.compile(
    rf"""
    {_SKIPPED}
    (?: (?P<word>[A-Za-z_]\w*+)
      | (?P<mark>[{{}}<>:;,\[\]])
      | (?P<whole>-?[ \t]*+(?:0[xX][0-9a-fA-F]++|\d++))(?![\w.])
      | (?P<real>-?[ \t]*+{_REAL})(?![\w.])
      | (?P<special>-[ \t]*+(?:inf(?:inity)?|nan)f?)(?!\w)
      | (?P<string>"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)

# A blob written as text is one field a number; a run of them is taken in one go.
_BLOB_RUN = {
    name: re.compile(rf"(?:[ \t\r\n]*+{name}[ \t]*+:[ \t]*+-?(?:{_REAL}|\d++|inf|nan)(?=[\s}}]))++", re.ASCII)
    for name in ("data", "diff", "double_data")
}
_NUMBER = re.compile(r":[ \t]*+([^\s}]++)", re.ASCII)

_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
    b"?": b"?",
}
_CLOSING = {"{": "}", "<": ">"}


def parse(data: bytes | memoryview, path: str) -> Message:
    """Parse a text file's bytes into a message of everything that it says.

    A byte order mark is skipped, and bytes that aren't UTF-8 (comments in other encodings are common) are
    kept as escapes. A field that stands several times is kept several times; which one counts is the reader's
    business.

    Raises:
        MalformedModel: at the first syntax error, with file, line and column, what was expected, and the line
        itself.
    """
    if len(data) > _MAX_BYTES:
        raise MalformedModel(f"{len(data)} bytes of text; at most {_MAX_BYTES} are read", where=path)
    return _Parser(str(data, "utf-8", "backslashreplace").removeprefix("\ufeff"), path).file()


class _Parser:
    """A recursive descent over the tokens; `kind` and `token` are the current one, `start` its place."""

    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.source = Source(path, "line")
        self.position = 0
        self.line = 1
        self.counted = 0
        self.fields_left = _MAX_FIELDS
        self.kind: str | None = None
        self.token = ""
        self.advance()

    def advance(self) -> None:
        """Step to the next token; what is none becomes one of kind `bad`, which no rule accepts."""
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            self.kind, self.token = "bad", self.no_token()
            return
        self.kind = match.lastgroup
        self.token = match[self.kind] if self.kind else ""
        self.position = match.end()
        self.start = self.position - len(self.token)

    def line_here(self) -> int:
        """Return the current token's line; called for places in ascending order, so that each line is counted once."""
        self.line += self.text.count("\n", self.counted, self.start)
        self.counted = self.start
        return self.line

    def file(self) -> Message:
        """Parse fields up to the end of the file."""
        message = Message(self.source, 1)
        self.fields(message, "")
        return message

    def fields(self, message: Message, closing: str, depth: int = 0) -> None:
        """Parse fields up to the closing bracket (or the end of the file), which is left as the current token."""
        while self.kind == "word":
            line = self.line_here()
            self.fields_left -= 1
            if self.fields_left < 0:
                raise self.fault(f"at most {_MAX_FIELDS} fields")
            name = sys.intern(self.token)
            self.advance()
            colon = self.token == ":" and self.kind == "mark"
            if colon:
                self.advance()
            if self.kind == "mark":
                self.blocks(message, name, line, depth, colon)
            elif colon:
                message.add(name, self.scalar(), line)
                if name in _BLOB_RUN:
                    self.blob_run(message, name, line)
            else:
                raise self.fault(f"':' or '{{' after {name!r}")
            if self.kind == "mark" and self.token in ",;":
                self.advance()
        if self.token != closing or self.kind not in ("mark", "end"):
            opened = f", to close the block that begins on line {message.position}" if closing else ""
            raise self.fault(f"a field's name or {closing!r}{opened}" if closing else "a field's name")

    def blocks(self, message: Message, name: str, line: int, depth: int, colon: bool) -> None:
        """Parse a block in braces, or a list of values, after a field's name."""
        if self.token in _CLOSING:
            message.add(name, self.block(depth), line)
        elif self.token == "[":
            self.values(message, name, depth, colon)
        else:
            raise self.fault("a value" if colon else f"':' or '{{' after {name!r}")

    def block(self, depth: int) -> Message:
        """Parse a block, brackets included."""
        if depth == _MAX_DEPTH:
            raise self.fault(f"no more than {_MAX_DEPTH} blocks within each other")
        closing = _CLOSING[self.token]
        message = Message(self.source, self.line_here())
        self.advance()
        self.fields(message, closing, depth + 1)
        self.advance()
        return message

    def values(self, message: Message, name: str, depth: int, colon: bool) -> None:
        """Parse `[a, b]`, each value an occurrence of the field; without a colon, only blocks may be listed."""
        self.advance()
        while self.token != "]" or self.kind != "mark":
            line = self.line_here()
            if self.kind == "mark" and self.token in _CLOSING:
                message.add(name, self.block(depth), line)
            elif colon:
                message.add(name, self.scalar(), line)
            else:
                raise self.fault("'{' in a list without ':'")
            self.fields_left -= 1
            if self.fields_left < 0:
                raise self.fault(f"at most {_MAX_FIELDS} fields")
            if self.kind == "mark" and self.token == ",":
                self.advance()
            elif self.token != "]" or self.kind != "mark":
                raise self.fault("',' or ']'")
        self.advance()

    def scalar(self) -> Value:
        """Parse a number, a word, or a string (adjacent strings are one)."""
        kind, token = self.kind, self.token
        if kind == "string":
            return self.string()
        if kind == "word":
            value: Value = Word(token)
        elif kind == "whole":
            value = self.whole(token.replace(" ", "").replace("\t", ""))
        elif kind in ("real", "special"):
            value = _real(token)
        else:
            raise self.fault("a value")
        self.advance()
        return value

    def string(self) -> str:
        """Join adjacent strings and resolve their escapes."""
        parts: list[str] = []
        while self.kind == "string":
            inner = self.token[1:-1]
            parts.append(self.unescaped(inner) if "\\" in inner else inner)
            self.advance()
        return "".join(parts)

    def unescaped(self, inner: str) -> str:
        """Resolve escapes, which stand for bytes of UTF-8."""

        def resolved(match: re.Match[bytes]) -> bytes:
            octal, hexadecimal, short, long, other = match.groups()
            if octal:
                return bytes((int(octal, 8) & 0xFF,))
            if hexadecimal:
                return bytes((int(hexadecimal, 16),))
            if short or long:
                code = int(short or long, 16)
                return chr(code).encode("utf-8", "replace") if code < 0x110000 else b"?"
            if other not in _ESCAPED:
                raise self.fault("a string without the unknown escape \\" + other.decode("utf-8", "replace"))
            return _ESCAPED[other]

        return _ESCAPE.sub(resolved, inner.encode("utf-8", "replace")).decode("utf-8", "backslashreplace")

    def whole(self, token: str) -> int | float:
        """Read a decimal, octal or hexadecimal number; what exceeds 64 bits by far can only be meant as a real one."""
        digits = token.lstrip("-")
        sign = -1 if len(digits) < len(token) else 1
        if digits[:2] in ("0x", "0X"):
            return sign * int(digits, 16)
        if len(digits) > 1 and digits[0] == "0":
            if not digits.strip("01234567"):
                return sign * int(digits, 8)
            raise self.fault("an octal number, as the leading 0 says")
        return sign * int(digits) if len(digits) <= 20 else sign * float(digits)

    def blob_run(self, message: Message, name: str, line: int) -> None:
        """Take the numbers that follow under the same name together, as an array."""
        match = _BLOB_RUN[name].match(self.text, self.start)
        if match is None:
            return
        if name != "diff":
            numbers = [_real(number) for number in _NUMBER.findall(self.text, self.start, match.end())]
            message.add(name, _array(numbers), line)
        self.position = match.end()
        self.advance()

    def no_token(self) -> str:
        """Describe text that is no token: a stray character, an open string, a malformed number."""
        blanks = _BLANKS.match(self.text, self.position)
        self.start = blanks.end() if blanks else self.position
        first = self.text[self.start]
        if first in "\"'":
            return "a string that isn't closed on its line"
        number = _NUMBER_LIKE.match(self.text, self.start)
        return f"{number[0][:40]}, which is no number" if number else repr(first)

    def fault(self, expected: str) -> MalformedModel:
        """Return an error with the place, what was expected and found, and the line with a mark under the column."""
        begin = self.text.rfind("\n", 0, self.start) + 1
        end = self.text.find("\n", self.start)
        line = self.text[begin : len(self.text) if end < 0 else end].rstrip("\r")
        number = self.text.count("\n", 0, self.start) + 1
        column = self.start - begin
        cut = max(0, column - 60)
        shown = "".join(c if c.isprintable() else " " for c in line[cut : cut + 100])
        found = {"end": "the end of the file", "bad": self.token}.get(self.kind or "", repr(self.token[:40]))
        return MalformedModel(
            f"expected {expected}, found {found}\n    {shown}\n    {' ' * (column - cut)}^",
            where=f"{self.source.path}:{number}:{column + 1}",
        )


def _real(token: str) -> float:
    text = token.replace(" ", "").replace("\t", "").lower()
    return float(text if text.endswith("inf") else text.removesuffix("f"))


def _array(numbers: list[float]) -> Array:
    """Hold the numbers as doubles; the blob's own type is decided by its field."""
    return np.array(numbers, np.float64)

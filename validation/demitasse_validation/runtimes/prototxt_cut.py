"""Takes layers out of a prototxt, so that a runtime which lacks them can run what is before and behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from demitasse.errors import MalformedModel
from demitasse.readers.caffe.prototxt import parse

__all__ = ["Cut", "CutNet", "input_name", "refused_layers"]

# A comment, a string, or a bracket: what has to be known to find where a block ends.
_TOKEN = re.compile(r"#[^\n]*|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|[{}<>]")

_LAYER = re.compile(r"\b(layers?)\s*:?\s*(?=[{<])")


# The most layers that are taken out: of each, the net is loaded as many times as its number of layers can be halved.
MOST_CUT = 12


class Block(NamedTuple):
    """A layer as it is written; `is_old` where it is spelled `layers`."""

    text: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    is_old: bool


class Cut(NamedTuple):
    """What is left of a prototxt, and the shapes of the inputs that took the places of layers."""

    text: str
    inputs: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class CutNet:
    """A prototxt in parts: what isn't a layer, and the layers in order."""

    head: str
    layers: tuple[Block, ...]

    @classmethod
    def of(cls, text: str) -> CutNet:
        """Take a prototxt apart.

        Raises:
            MalformedModel: it isn't one.
        """
        head: list[str] = []
        layers: list[Block] = []
        start, depth, opened = 0, 0, None
        for token in _TOKEN.finditer(text):
            if token[0] in "{<":
                if depth == 0:
                    opened = _opening(text, start, token.start())
                depth += 1
            elif token[0] in "}>":
                depth -= 1
                if depth == 0 and opened is not None:
                    head.append(text[start:opened])
                    layers.append(_block(text[opened : token.end()]))
                    start = token.end()
        return cls("".join([*head, text[start:]]), tuple(layers))

    def names(self) -> tuple[str, ...]:
        """Return the layers' names, in order."""
        return tuple(layer.name for layer in self.layers)

    def without(self, names: Collection[str], shapes: Mapping[str, Sequence[int]], most: int | None = None) -> Cut:
        """Write the net with inputs in the place of some layers' tops.

        Args:
            names: the layers to leave out.
            shapes: of each of their tops, by `layer/top`; one that has none is left out with its readers.
            most: how many layers to keep from the start; all by default.
        """
        parts, inputs = [self.head], {}
        renamed: dict[str, str] = {}  # what an in-place layer gives is a blob of its own where that is an input
        for layer in self.layers[:most]:
            if layer.name not in names:
                for top in set(layer.tops) - set(layer.bottoms):
                    renamed.pop(top, None)
                parts.append(_with_blobs(layer.text, renamed))
                continue
            for top in layer.tops:
                shape = shapes.get(f"{layer.name}/{top}")
                if shape is not None:
                    name = input_name(layer, top)
                    renamed[top] = name
                    inputs[name] = tuple(shape)
                    parts.append(_input(layer, name, shape))
        return Cut("\n".join(parts), inputs)


def input_name(layer: Block, top: str) -> str:
    """Return what the input is called that takes the place of what a layer gives."""
    return f"{top}@{layer.name}" if top in layer.bottoms else top


def _input(layer: Block, name: str, shape: Sequence[int]) -> str:
    dims = " ".join(f"dim: {size}" for size in shape)
    if layer.is_old:
        return f'input: "{name}" input_shape {{ {dims} }}'
    return f'layer {{ name: "{layer.name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}'


def _with_blobs(text: str, names: Mapping[str, str]) -> str:
    """Give a layer's bottoms and tops other names."""

    def changed(match: re.Match[str]) -> str:
        return f'{match[1]}"{names.get(match[2], match[2])}"'

    return re.sub(r"""(\b(?:bottom|top)\s*:\s*)["']([^"']*)["']""", changed, text)


def refused_layers(net: CutNet, shapes: Mapping[str, Sequence[int]], attempt: Callable[[Cut], str]) -> dict[str, str]:
    """Find the layers without which a runtime runs a net, and why it refuses each; empty where that doesn't help.

    The first of them stands behind the longest start of the net that runs, which is found by halving; then on from
    there. Nothing helps where the runtime refuses an input, or more than `MOST_CUT` layers.

    Args:
        net: the net.
        shapes: of what the layers give, by `layer/top`.
        attempt: runs a net on anything; returns why it fails, or nothing.
    """
    refused: dict[str, str] = {}
    while len(refused) <= MOST_CUT:
        runs, fails, why = 0, len(net.layers), attempt(net.without(refused, shapes))
        if not why:
            return refused
        while fails - runs > 1:
            middle = (runs + fails) // 2
            failure = attempt(net.without(refused, shapes, middle))
            runs, fails, why = (runs, middle, failure) if failure else (middle, fails, why)
        layer = net.layers[runs]
        if layer.name in refused:
            break
        refused[layer.name] = why
    return {}


def _opening(text: str, start: int, bracket: int) -> int | None:
    """Return where the layer begins whose bracket is here; None if it is something else's."""
    found = None
    for match in _LAYER.finditer(text, start, bracket + 1):
        found = match if match.end() == bracket else found
    return None if found is None else found.start()


def _block(text: str) -> Block:
    kind, _, _ = text.partition("{")
    is_old = kind.strip().rstrip(":<").strip() == "layers"
    message = parse(text.encode(), "layer")
    (layer,) = (*message.messages("layer"), *message.messages("layers"))
    fields = {name: [str(each.value) for each in layer.all(name)] for name in ("name", "bottom", "top")}
    if len(fields["name"]) != 1:
        raise MalformedModel("a layer has no name, or several")
    return Block(text, fields["name"][0], tuple(fields["bottom"]), tuple(fields["top"]), is_old)

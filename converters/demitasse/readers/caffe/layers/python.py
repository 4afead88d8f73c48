"""Python layers: code outside the net, of which some classes are so common that their meaning is known here."""

from __future__ import annotations

import ast
import re
from typing import Any

from demitasse.ir.ops import Identity
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.layers.regions import Proposals, emit_proposals
from demitasse.readers.caffe.registry import reads

# Longer ones are no list of options.
MAX_OPTIONS = 4096


@reads("Python")
def python(layer: LayerBuilder) -> None:
    """Read Faster R-CNN's ProposalLayer and ENet's SpatialDropoutLayer; any other class needs a plugin."""
    param = layer.param("python_param")
    param.ignore("module")
    name, options = param.text("layer"), param.text("param_str", "")
    if name == "ProposalLayer":
        _proposals(layer, _options(layer, options))
    elif name == "SpatialDropoutLayer" and _options(layer, options).get("phase") == "TEST":
        layer.emit(Identity(), layer.x)
    else:
        raise layer.unsupported(f"the Python class {name!r} is no part of the net; a --plugin file can read it")


def _options(layer: LayerBuilder, text: str) -> dict[str, Any]:
    """Read `'feat_stride': 16`, with or without braces and quotes; nothing is executed."""
    quoted = re.sub(r"(?<!['\"\w])([A-Za-z_]\w*)(?=\s*:)", r"'\1'", text.strip().strip("{}"))
    try:
        found = ast.literal_eval(f"{{{quoted}}}") if len(text) <= MAX_OPTIONS else None
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise layer.unsupported(f"its param_str can't be understood: {text[:80]!r}")
    return found


def _proposals(layer: LayerBuilder, options: dict[str, Any]) -> None:
    unknown = sorted(options.keys() - {"feat_stride", "scales", "ratios"}, key=str)
    if unknown:
        raise layer.unsupported(f"its param_str sets {', '.join(map(str, unknown))}")
    try:
        stride = int(options["feat_stride"])
        ratios = tuple(map(float, options.get("ratios", (0.5, 1, 2))))
        scales = tuple(map(float, options.get("scales", (8, 16, 32))))
    except (KeyError, TypeError, ValueError) as error:
        raise layer.malformed(f"its param_str has no usable feat_stride, ratios or scales: {error}") from error
    if stride < 1 or not ratios or not scales or min(*ratios, *scales) <= 0:
        raise layer.malformed(f"stride {stride}, ratios {ratios} and scales {scales} have to be positive")
    layer.note("takes py-faster-rcnn's settings for testing: 6000 boxes before suppression, 300 after, 0.7, 16 pixels")
    emit_proposals(layer, Proposals(stride, 16, ratios, scales, 16, 6000, 300, 0.7))

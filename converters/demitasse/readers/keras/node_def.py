"""Translate `TensorFlowOpLayer`, by which tf.keras of TensorFlow 1.14 to 2.3 kept operations on tensors.

Such a layer holds a node of a TensorFlow graph, and those of its inputs that are constants. It becomes a call of the
function of TensorFlow's Python interface that makes such a node, as later versions keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from demitasse.errors import MalformedModel

__all__ = ["Translated", "translate"]


class Translated(NamedTuple):
    """A function's name, below `tf.`, and its arguments."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_SAME_ARGUMENTS = {
    "Abs": "math.abs",
    "Add": "math.add",
    "AddV2": "math.add",
    "BiasAdd": "nn.bias_add",
    "Ceil": "math.ceil",
    "Cos": "math.cos",
    "Div": "math.divide",
    "Elu": "nn.elu",
    "Equal": "math.equal",
    "Exp": "math.exp",
    "ExpandDims": "expand_dims",
    "Floor": "math.floor",
    "Greater": "math.greater",
    "GreaterEqual": "math.greater_equal",
    "Identity": "identity",
    "Less": "math.less",
    "LessEqual": "math.less_equal",
    "Log": "math.log",
    "LogSoftmax": "nn.log_softmax",
    "Maximum": "math.maximum",
    "Minimum": "math.minimum",
    "Mul": "math.multiply",
    "Neg": "math.negative",
    "Pow": "math.pow",
    "RealDiv": "math.truediv",
    "Relu": "nn.relu",
    "Relu6": "nn.relu6",
    "Reshape": "reshape",
    "Round": "math.round",
    "Rsqrt": "math.rsqrt",
    "SelectV2": "where",
    "Selu": "nn.selu",
    "Sigmoid": "math.sigmoid",
    "Sign": "math.sign",
    "Sin": "math.sin",
    "Softmax": "nn.softmax",
    "Softplus": "math.softplus",
    "Softsign": "nn.softsign",
    "Sqrt": "math.sqrt",
    "Square": "math.square",
    "Sub": "math.subtract",
    "Tanh": "math.tanh",
    "Tile": "tile",
    "Transpose": "transpose",
}
"""Nodes whose inputs are the function's first arguments."""

_REDUCTIONS = {"Mean": "mean", "Sum": "sum", "Max": "max", "Min": "min", "Prod": "prod"}
_TYPES = {"DT_FLOAT": "float32", "DT_HALF": "float16", "DT_INT32": "int32", "DT_INT64": "int64", "DT_BOOL": "bool"}

Inputs = Sequence[Any]
Attributes = Mapping[str, Any]


def _strided_slice(inputs: Inputs, attributes: Attributes) -> Translated:
    """Write out the masks of a StridedSlice (tensorflow/core/util/strided_slice_op.cc) as a key of Python."""
    value, begins, ends, strides = inputs
    masks = {name: int(attributes.get(f"{name}_mask", 0)) for name in _MASKS}
    key: list[Any] = []
    for place, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        bit = 1 << place
        if masks["ellipsis"] & bit:
            key.append(...)
        elif masks["new_axis"] & bit:
            key.append(None)
        elif masks["shrink_axis"] & bit:
            key.append(begin)
        else:
            key.append(slice(None if masks["begin"] & bit else begin, None if masks["end"] & bit else end, stride))
    return Translated("__operators__.getitem", (value, key), {})


_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")

_OTHERS: Mapping[str, Callable[[Inputs, Attributes], Translated]] = {
    "ArgMax": lambda inputs, _: Translated("math.argmax", tuple(inputs), {}),
    "BatchMatMulV2": lambda inputs, attributes: Translated(
        "linalg.matmul",
        tuple(inputs),
        {"transpose_a": attributes.get("adj_x", False), "transpose_b": attributes.get("adj_y", False)},
    ),
    "Cast": lambda inputs, attributes: Translated("cast", (*inputs, attributes.get("DstT")), {}),
    "ConcatV2": lambda inputs, _: Translated("concat", ([*inputs[:-1]], inputs[-1]), {}),
    "DepthToSpace": lambda inputs, attributes: Translated(
        "nn.depth_to_space", (*inputs, attributes.get("block_size")), {"data_format": attributes.get("data_format")}
    ),
    "LeakyRelu": lambda inputs, attributes: Translated("nn.leaky_relu", (*inputs, attributes.get("alpha", 0.2)), {}),
    "MatMul": lambda inputs, attributes: Translated(
        "linalg.matmul",
        tuple(inputs),
        {name: attributes.get(name, False) for name in ("transpose_a", "transpose_b")},
    ),
    "Pack": lambda inputs, attributes: Translated("stack", ([*inputs], attributes.get("axis", 0)), {}),
    "Pad": lambda inputs, _: Translated("pad", tuple(inputs), {}),
    "PadV2": lambda inputs, _: Translated("pad", tuple(inputs[:2]), {"constant_values": inputs[2]}),
    "Squeeze": lambda inputs, attributes: Translated("squeeze", (*inputs, attributes.get("squeeze_dims")), {}),
    "StridedSlice": _strided_slice,
}


def translate(
    config: Mapping[str, Any], node: Mapping[str, Any], tensors: Sequence[Any], where: str
) -> Translated | None:
    """Translate a node.

    Args:
        config: the layer's configuration, with the constants by the number of the input.
        node: its NodeDef, as the protobuf's JSON.
        tensors: what it is called on.
        where: the layer, for messages.

    Returns:
        The function and its arguments; None for a node that has no translation.

    Raises:
        MalformedModel: it has other inputs than the node asks for.
    """
    kind, constants = str(node.get("op")), config.get("constants")
    known = constants if isinstance(constants, Mapping) else {}
    rest = list(tensors)
    inputs = []
    for number in range(len(node.get("input") or ())):
        if str(number) not in known and not rest:
            raise MalformedModel(f"its node {kind} has {number + 1} inputs or more, and the call fewer", where=where)
        inputs.append(known[str(number)] if str(number) in known else rest.pop(0))
    if rest or not inputs:
        raise MalformedModel(f"its node {kind} has {len(inputs)} inputs, and the call more", where=where)
    stated = node.get("attr")
    attributes = {name: _plain(value) for name, value in stated.items()} if isinstance(stated, Mapping) else {}
    if kind in _SAME_ARGUMENTS:
        return Translated(_SAME_ARGUMENTS[kind], tuple(inputs), {})
    if kind in _REDUCTIONS:
        return Translated(f"math.reduce_{_REDUCTIONS[kind]}", (*inputs, attributes.get("keep_dims", False)), {})
    if kind in _OTHERS:
        try:
            return _OTHERS[kind](inputs, attributes)
        except (TypeError, ValueError, IndexError) as error:
            raise MalformedModel(
                f"its node {kind} isn't laid out as TensorFlow does it: {error}", where=where
            ) from error
    return None


def _plain(value: Any) -> Any:
    """Read an AttrValue: `{"i": "2"}`, `{"b": true}`, `{"type": "DT_FLOAT"}`, `{"list": {"i": ["1"]}}`."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((kind, content),) = value.items()
    match kind:
        case "i":
            return int(content)
        case "list" if isinstance(content, Mapping):
            return [int(entry) for entry in content.get("i", ())]
        case "type":
            return _TYPES.get(content, content)
        case "s":  # base64; the only one that counts here is a data format
            return "NHWC" if content == "TkhXQw==" else str(content)
        case _:
            return content

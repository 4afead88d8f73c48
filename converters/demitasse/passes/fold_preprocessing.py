"""Put the preprocessing's arithmetic into the graph, so that an artifact takes raw uint8 pixels.

Derivation. With `p` the order of channels that the net expects, `x[p] = (u[p] - mean[p]) * scale[p]` for pixels `u` in
RGB. A convolution that reads `x[p]` with a kernel `K` computes the same from RGB if its input channels are put back:
`K'[:, p] = K`. So where only such convolutions read the input no channel is moved at run time; elsewhere a Gather moves
them.
Resizing and cropping stay outside: a graph takes images of one size.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir import ops
from demitasse.ir.graph import Graph, Merge, MergeKind, Node, Origin, SourceLayer
from demitasse.ir.ops import BinaryFunction, DType
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse.ir.weights import Array
from demitasse.preprocess import mean_for

__all__ = ["fold_preprocessing"]

REVERSED = (2, 1, 0)


def fold_preprocessing(graph: Graph, contract: Preprocessing) -> tuple[Graph, Preprocessing]:
    """Return a graph whose input is uint8 RGB (or gray) pixels, and what is left of the contract.

    Raises:
        UsageError: the net has several inputs, or one that is no image of the contract's channels.
    """
    name = _image_input(graph, contract)
    reverse = contract.channels is ChannelOrder.BGR
    convolutions = reverse and all(_reads_channels(reader, name, graph) for reader in graph.consumers()[name])
    result = graph.shell()
    result.values.pop(name)
    result.inputs.remove(name)
    result.add_input(name, graph.type(name)._replace(dtype=DType.UINT8))
    ready = f"{name}@preprocessed"
    _emit(result, graph, name, ready, contract, gathers=reverse and not convolutions)
    result.layers = [_renamed(layer, name, ready) for layer in graph.layers]
    for node in graph.nodes:
        inputs = [ready if each == name else each for each in node.inputs]
        if convolutions and name in node.inputs:
            inputs[1] = _put_back(result, graph, node.inputs[1])
        result.adopt(graph, node, inputs=inputs)
    if convolutions:
        # The blob in the net's own order of channels exists nowhere: its readers reorder it as they compute.
        result.layers = [_renamed(layer, ready, f"{name}@bgr") for layer in result.layers]
        result.merged[f"{name}@bgr"] = Merge(MergeKind.FOLDED, graph.consumers()[name][0].outputs[0])
    result.outputs = list(graph.outputs)
    left = Preprocessing(
        channels=ChannelOrder.GRAY if contract.channels is ChannelOrder.GRAY else ChannelOrder.RGB,
        resize=contract.resize,
        resize_mode=contract.resize_mode,
        crop=contract.crop,
        filter=contract.filter,
    )
    return result, left


def _image_input(graph: Graph, contract: Preprocessing) -> str:
    if len(graph.inputs) != 1:
        raise UsageError(
            f"the net has the inputs {', '.join(graph.inputs)}; preprocessing can be folded into one alone"
        )
    name = graph.inputs[0]
    shape = graph.type(name).shape
    if len(shape) != 4 or shape[graph.layout.channel_axis(4)] != contract.channels.count:
        raise UsageError(f"input {name!r} of shape {list(shape)} is no image of {contract.channels.count} channel(s)")
    if name in graph.outputs:
        raise UsageError(f"input {name!r} is an output too; preprocessing can't be folded into it")
    return name


def _reads_channels(node: Node, name: str, graph: Graph) -> bool:
    """Check that a node is an ungrouped convolution of the input by a constant kernel."""
    return (
        isinstance(node.op, ops.Conv)
        and node.op.groups == 1
        and node.inputs[0] == name
        and node.inputs[1] in graph.weights
    )


def _put_back(result: Graph, graph: Graph, kernel: str) -> str:
    name = result.fresh(f"{kernel}@rgb")
    return result.weights.defer(name, graph.type(kernel), partial(_reversed, graph, kernel))


def _reversed(graph: Graph, kernel: str) -> Array:
    return graph.weights[kernel][:, REVERSED]


def _renamed(layer: SourceLayer, old: str, new: str) -> SourceLayer:
    return replace(layer, outputs=tuple(new if name == old else name for name in layer.outputs))


def _emit(result: Graph, graph: Graph, name: str, ready: str, contract: Preprocessing, *, gathers: bool) -> None:
    """Append cast, channel order, scale and shift: `u * scale + (-mean * scale)`, constants combined in float64."""
    origin = Origin(name, "Preprocessing")
    scale, shift = _constants(contract, graph.type(name).shape, graph)
    if contract.channels is ChannelOrder.BGR and not gathers:
        axis = graph.layout.channel_axis(4) - 4
        scale, shift = np.flip(scale, axis), np.flip(shift, axis)
    steps: list[tuple[ops.AnyOp, str | None]] = [(ops.Cast(DType.FLOAT32), None)]
    if gathers:
        order = result.add_weight(f"{name}/channels", np.array(REVERSED, np.int32))
        steps.append((ops.Gather(graph.layout.channel_axis(4)), order))
    if np.any(scale != 1):
        factor = result.add_weight(f"{name}/scale", scale.astype(np.float32))
        steps.append((ops.Binary(BinaryFunction.MUL), factor))
    if np.any(shift != 0):
        term = result.add_weight(f"{name}/shift", shift.astype(np.float32))
        steps.append((ops.Binary(BinaryFunction.ADD), term))
    value = name
    for place, (op, constant) in enumerate(steps):
        output = ready if place == len(steps) - 1 else f"{ready}/{place}"
        value = result.add(op, [value] if constant is None else [value, constant], output, origin)


def _constants(contract: Preprocessing, shape: ops.Shape, graph: Graph) -> tuple[Array, Array]:
    """Return scale and shift, shaped to broadcast over the input, in the contract's own order of channels."""
    first = graph.layout is ops.Layout.CHANNELS_FIRST
    count = contract.channels.count
    per_channel = (count, 1, 1) if first else (count,)
    scale = np.broadcast_to(np.asarray(contract.scale, np.float64), (count,)).reshape(per_channel)
    if contract.mean_image is None:
        mean = np.broadcast_to(np.asarray(contract.mean or (0.0,), np.float64), (count,)).reshape(per_channel)
        return scale, -mean * scale
    size = ops.Size(*(shape[axis] for axis in graph.layout.spatial_axes(4)))
    image = mean_for(contract.mean_image, size).astype(np.float64)
    return scale, -(image.transpose(2, 0, 1) if first else image) * scale

"""Multiply and add a constant for each channel by a depthwise product, for targets whose constants have one step each.

Derivation. `y[c] = x[c] * s[c] + t[c]` is a convolution with a kernel of one element for each channel, and a bias. As
an operand of a multiplication all `s` share 256 steps, and the smallest keep few of them; as a kernel each has a step
of its own, and as a bias each `t` has 32 bits. What comes before and cannot take the constants into its own kernel, as
a batch normalization in front of its convolution, thus loses nothing.

Cases. A `Mul` by a constant along the channels of an image in `CHANNELS_LAST`, alone or with an `Add` behind it that
nothing else reads past; the last of them keeps its activation.
"""

from __future__ import annotations

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Merge, MergeKind, Node
from demitasse.ir.ops import Activation, BinaryFunction, Layout, Padding

__all__ = ["channel_products"]

IMAGE_RANK = 4


def _constant(node: Node, function: BinaryFunction, graph: Graph) -> tuple[str, str] | None:
    """Match `value * constant` with one number a channel, or `+` with one for all as well; return both names."""
    if not isinstance(node.op, ops.Binary) or node.op.function is not function:
        return None
    value, constant = node.inputs if node.inputs[1] in graph.weights else node.inputs[::-1]
    if value in graph.weights or constant not in graph.weights:
        return None
    type_, shape = graph.type(value), graph.type(constant).shape
    if type_.rank != IMAGE_RANK or not type_.dtype.is_float or graph.type(node.outputs[0]) != type_:
        return None
    ends = {type_.shape[-1:]} if function is BinaryFunction.MUL else {type_.shape[-1:], (1,), ()}
    fits = all(dim == 1 for dim in shape[:-1]) and shape[-1:] in ends
    return (value, constant) if fits else None


def _sum_behind(node: Node, graph: Graph, consumers: dict[str, list[Node]]) -> tuple[Node, str] | None:
    """Return the addition that alone reads a product, and its constant."""
    name = node.outputs[0]
    readers = consumers.get(name, [])
    if len(readers) != 1 or name in graph.outputs or graph.values[name].storage.view is not None:
        return None
    found = _constant(readers[0], BinaryFunction.ADD, graph)
    same = graph.values[name].storage == graph.values[readers[0].outputs[0]].storage
    return (readers[0], found[1]) if found is not None and same else None


def channel_products(graph: Graph) -> Graph:
    """Replace multiplications, and additions behind them, by depthwise convolutions with kernels of one element."""
    consumers = graph.consumers()
    result = graph.shell()
    done: set[str] = set()
    for node in graph.nodes:
        if node.outputs[0] in done:
            continue
        found = _constant(node, BinaryFunction.MUL, graph)
        if found is None:
            result.adopt(graph, node)
            continue
        alone = node.op.activation is Activation.NONE if isinstance(node.op, ops.Binary) else False
        added = _sum_behind(node, graph, consumers) if alone else None
        last = node if added is None else added[0]
        _emit(result, graph, found, added[1] if added is not None else None, last)
        if last is not node:
            result.merged[node.outputs[0]] = Merge(MergeKind.FOLDED, last.outputs[0])
            done.update(last.outputs)
    result.outputs = list(graph.outputs)
    return result


def _emit(result: Graph, graph: Graph, product: tuple[str, str], added: str | None, last: Node) -> None:
    value, factor = product
    channels = graph.type(value).shape[-1]
    layer = last.origin.layer
    kernel = np.broadcast_to(graph.weights[factor].reshape(-1), (channels,)).reshape(channels, 1, 1, 1)
    bias = np.zeros(1, np.float32) if added is None else graph.weights[added].reshape(-1)
    inputs = [
        value,
        result.add_weight(result.fresh(f"{layer}/channel_kernel"), np.ascontiguousarray(kernel)),
        result.add_weight(result.fresh(f"{layer}/channel_bias"), np.array(np.broadcast_to(bias, (channels,)))),
    ]
    activation = last.op.activation if isinstance(last.op, ops.Binary) else Activation.NONE
    op = ops.Conv((1, 1), (1, 1), (Padding(0, 0),) * 2, channels, activation, layout=Layout.CHANNELS_LAST)
    result.add(op, inputs, last.outputs, last.origin, graph.values[last.outputs[0]].storage)

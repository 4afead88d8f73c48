"""Losses, as far as they compute something that is deployed (softmax_loss_layer.cpp, euclidean_loss_layer.cpp, ...).

`deploy` has turned each of them to its scores alone; layers that only measure never get here.
"""

from __future__ import annotations

from demitasse.ir.ops import Binary, BinaryFunction, Reduce, ReduceFunction, Softmax, Unary, UnaryFunction
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.registry import reads


@reads("SoftmaxWithLoss")
def softmax_with_loss(layer: LayerBuilder) -> None:
    """Give the probabilities that the loss is taken of."""
    axis = layer.param("softmax_param").integer("axis")
    layer.emit(Softmax(layer.axis(axis, layer.rank(layer.x))), layer.x)


@reads("InfogainLoss")
def infogain_loss(layer: LayerBuilder) -> None:
    """Give the probabilities that the loss is taken of."""
    param = layer.param("infogain_loss_param")
    param.ignore("source")
    layer.emit(Softmax(layer.axis(param.integer("axis"), layer.rank(layer.x))), layer.x)


@reads("SigmoidCrossEntropyLoss")
def sigmoid_cross_entropy_loss(layer: LayerBuilder) -> None:
    """Give the probabilities that the loss is taken of."""
    layer.emit(Unary(UnaryFunction.SIGMOID), layer.x)


@reads("EuclideanLoss")
def euclidean_loss(layer: LayerBuilder) -> None:
    """Take half the mean over samples of the squared distance of two bottoms; left out of nets with data layers."""
    left, right = layer.inputs(2)
    if layer.shape(left) != layer.shape(right):
        raise layer.malformed(f"its bottoms differ in shape: {layer.shape(left)} and {layer.shape(right)}")
    difference = layer.step("difference", Binary(BinaryFunction.SUB), left, right)
    axes = tuple(range(1, layer.rank(left)))
    squares = layer.step("squares", Reduce(ReduceFunction.SUM_SQUARE, axes, keepdims=False), difference)
    layer.chain(
        squares,
        ("mean", Reduce(ReduceFunction.MEAN, (0,), keepdims=False), None),
        ("half", Binary(BinaryFunction.MUL), 0.5),
    )

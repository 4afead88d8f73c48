"""Layers that combine tensors element by element, or scale and shift them (eltwise, scale, bias layers)."""

from __future__ import annotations

from demitasse.ir.ops import Binary, BinaryFunction, Identity, Shape
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.registry import reads

_ADD = Binary(BinaryFunction.ADD)
_SUB = Binary(BinaryFunction.SUB)
_MUL = Binary(BinaryFunction.MUL)
_MAX = Binary(BinaryFunction.MAX)


@reads("Eltwise")
def eltwise(layer: LayerBuilder) -> None:
    """Multiply, add (each times its `coeff`) or take the maximum of any number of bottoms of one shape."""
    param = layer.param("eltwise_param")
    bottoms = layer.inputs(1, len(layer.bottoms) or 1)
    operation, coeffs = param.enum("operation"), param.numbers("coeff")
    shapes = {layer.shape(x) for x in bottoms}
    if len(shapes) > 1:
        raise layer.malformed(f"its bottoms differ in shape: {', '.join(str(layer.shape(x)) for x in bottoms)}")
    if coeffs and (operation != "SUM" or len(coeffs) != len(bottoms)):
        raise layer.malformed(f"{len(coeffs)} values of coeff for a {operation} of {len(bottoms)} bottoms")
    ops = {"PROD": _MUL, "SUM": _ADD, "MAX": _MAX}
    if operation not in ops:
        raise layer.unsupported(f"the operation {operation}")
    _emit_sum(layer, bottoms, coeffs or (1.0,) * len(bottoms)) if operation == "SUM" else _emit_fold(
        layer, bottoms, ops[operation]
    )


def _emit_fold(layer: LayerBuilder, bottoms: tuple[str, ...], op: Binary) -> None:
    result, *rest = bottoms
    if not rest:
        layer.emit(Identity(), result)
    for position, x in enumerate(rest, 2):
        last = position == len(bottoms)
        result = layer.emit(op, result, x) if last else layer.step(f"first_{position}", op, result, x)


def _emit_sum(layer: LayerBuilder, bottoms: tuple[str, ...], coeffs: tuple[float, ...]) -> None:
    if any(coeff != 1 for coeff in coeffs):
        layer.trap(f"the bottoms are weighted by {coeffs}")
    if len(bottoms) == 1:
        layer.chain(bottoms[0], ("scaled", _MUL, coeffs[0])) if coeffs[0] != 1 else layer.emit(Identity(), bottoms[0])
        return
    result = layer.scaled("scaled_1", bottoms[0], coeffs[0])
    for position, (x, coeff) in enumerate(zip(bottoms[1:], coeffs[1:], strict=True), 2):
        op = _SUB if coeff == -1 else _ADD
        term = x if coeff == -1 else layer.scaled(f"scaled_{position}", x, coeff)
        last = position == len(bottoms)
        result = layer.emit(op, result, term) if last else layer.step(f"first_{position}", op, result, term)


def _spanned(layer: LayerBuilder, axis: int, count: int) -> tuple[Shape, Shape]:
    """Return the shape of a parameter blob that spans `count` axes from `axis` on, and the one that broadcasts."""
    shape = layer.shape(layer.bottoms[0])
    start = layer.axis(axis, len(shape))
    stop = len(shape) if count == -1 else start + count
    if count < -1 or stop > len(shape):
        raise layer.malformed(f"num_axes {count} from axis {axis} on exceeds an input of shape {shape}")
    own = shape[start:stop]
    return own, (1,) * start + own + (1,) * (len(shape) - stop)


def _second_bottom(layer: LayerBuilder, axis: int) -> str:
    """Make the second bottom, whose axes are those of the first from `axis` on, broadcast to the first."""
    x, operand = layer.bottoms
    shape, own = layer.shape(x), layer.shape(operand)
    start = layer.axis(axis, len(shape)) if own else 0
    if shape[start : start + len(own)] != own:
        raise layer.malformed(f"its second bottom, of shape {own}, doesn't fit {shape} from axis {axis} on")
    return layer.aligned(operand, start, len(shape))


@reads("Scale")
def scale(layer: LayerBuilder) -> None:
    """Multiply by a learned factor or a second bottom along some axes, and add a learned bias."""
    param = layer.param("scale_param")
    bottoms = layer.inputs(1, 2)
    axis, has_bias = param.integer("axis"), param.flag("bias_term")
    if len(bottoms) == 2:
        param.ignore("num_axes")
        layer.trap(f"the factor is a second bottom, which broadcasts from axis {axis} on")
        factor, blobs = _second_bottom(layer, axis), 0
        count = layer.rank(bottoms[1])
        own, view = _spanned(layer, axis if count else 0, count)
    else:
        own, view = _spanned(layer, axis, param.integer("num_axes"))
        factor, blobs = layer.weight(0, "gamma", own, view=view), 1
    if not has_bias:
        layer.emit(_MUL, bottoms[0], factor)
        return
    if any(dim != 1 for dim in view[:1]) and layer.shape(bottoms[0])[0] != 1:
        layer.fix_batch("the bias has one entry a sample")
    scaled = layer.step("scaled", _MUL, bottoms[0], factor)
    layer.emit(_ADD, scaled, layer.weight(blobs, "beta", own, view=view))


@reads("Bias")
def bias(layer: LayerBuilder) -> None:
    """Add a learned bias or a second bottom along some axes."""
    param = layer.param("bias_param")
    bottoms = layer.inputs(1, 2)
    axis = param.integer("axis")
    if len(bottoms) == 2:
        param.ignore("num_axes")
        layer.emit(_ADD, bottoms[0], _second_bottom(layer, axis))
        return
    own, view = _spanned(layer, axis, param.integer("num_axes"))
    layer.emit(_ADD, bottoms[0], layer.weight(0, "beta", own, view=view))


@reads("Axpy")
def axpy(layer: LayerBuilder) -> None:
    """Take `a * x + y`, `a` holding one number a sample and channel (SENet's fork)."""
    factor, x, y = layer.inputs(3)
    if layer.shape(factor)[:2] != layer.shape(x)[:2] or any(dim != 1 for dim in layer.shape(factor)[2:]):
        raise layer.malformed(f"a factor of shape {layer.shape(factor)} doesn't fit {layer.shape(x)}")
    if layer.shape(x) != layer.shape(y):
        raise layer.malformed(f"x {layer.shape(x)} and y {layer.shape(y)} differ in shape")
    aligned = layer.aligned(factor, 0, layer.rank(x))
    layer.emit(_ADD, layer.step("scaled", _MUL, x, aligned), y)

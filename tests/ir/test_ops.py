from __future__ import annotations

import dataclasses
import inspect

import pytest

from demitasse.ir import ops
from demitasse.ir.ops import (
    AnyOp,
    BinaryFunction,
    CompareFunction,
    Coordinates,
    DType,
    Interpolation,
    Layout,
    Op,
    Padding,
    ReduceFunction,
    Shape,
    ShapeError,
    TensorType,
    UnaryFunction,
)

NONE, ONE = Padding(0, 0), Padding(1, 1)
CONV = ops.Conv((1, 1), (1, 1), (NONE, NONE))
TRANSPOSED = ops.ConvTranspose((2, 2), (1, 1), (NONE, NONE), (0, 0))
LSTM = ops.Recurrent(ops.RecurrentCell.LSTM, ops.Curve(ops.CurveFunction.TANH))
POOL = ops.MaxPool((2, 2), (2, 2), (NONE, NONE))
IMAGE: Shape = (2, 3, 8, 9)


def typed(entry: Shape | TensorType) -> TensorType:
    """Reads a shape as that of a float32 tensor."""
    return entry if isinstance(entry, TensorType) else TensorType(entry)


def of(dtype: DType, *shape: int) -> TensorType:
    return TensorType(shape, dtype)


INTEGERS = of(DType.INT32, 2, 3, 8, 9)


def test_the_set_of_operations_is_closed() -> None:
    public = [
        member
        for name, member in inspect.getmembers(ops, inspect.isclass)
        if issubclass(member, Op) and not name.startswith("_") and member not in (Op, ops.SpatialOp)
    ]
    assert set(public) == set(ops.OPS)
    assert {op.__name__ for op in ops.OPS} <= set(ops.__all__)


@pytest.mark.parametrize("op", ops.OPS, ids=lambda op: op.__name__)
def test_an_operation_is_a_documented_fact(op: type[AnyOp]) -> None:
    assert op.__doc__
    # A dataclass without a docstring gets its own signature as one.
    assert not op.__doc__.startswith(f"{op.__name__}(")
    assert vars(op)["__dataclass_params__"].frozen


def test_operations_with_equal_attributes_are_equal() -> None:
    assert ops.Softmax(1) == ops.Softmax(1) != ops.Softmax(2)
    assert len({ops.Relu(), ops.Relu(), ops.Elu()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        ops.Softmax(1).axis = 2  # type: ignore[misc]


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("spatial", [(7,), (5, 6), (3, 4, 5)])
def test_a_layout_names_the_axes_of_the_shapes_that_it_makes(layout: Layout, spatial: Shape) -> None:
    shape = layout.shape(2, 9, spatial)
    assert shape[0] == 2
    assert shape[layout.channel_axis(len(shape))] == 9
    assert tuple(shape[axis] for axis in layout.spatial_axes(len(shape))) == spatial


@pytest.mark.parametrize(
    ("op", "inputs", "expected"),
    [
        (ops.Conv((2, 1), (1, 2), (ONE, NONE)), [IMAGE, (5, 3, 3, 2)], (2, 5, 4, 7)),
        (
            ops.Conv((1, 1), (1, 1), (NONE, NONE), layout=Layout.CHANNELS_LAST),
            [(2, 8, 9, 3), (5, 3, 3, 3)],
            (2, 6, 7, 5),
        ),
        (ops.ConvTranspose((2, 3), (1, 1), (ONE, NONE), (1, 0)), [IMAGE, (3, 2, 4, 2)], (2, 2, 17, 26)),
        (ops.MaxPool((3, 3), (2, 2), (Padding(0, 1), NONE)), [IMAGE], (2, 3, 4, 4)),
        (ops.Resize((4, 20), Interpolation.LINEAR, Coordinates.HALF_PIXEL), [IMAGE], (2, 3, 4, 20)),
        (ops.Dense(), [(2, 7, 5), (4, 5), (4,)], (2, 7, 4)),
        (ops.MatMul(transpose_left=True, transpose_right=True), [(3, 1, 4, 2), (5, 6, 4)], (3, 5, 2, 6)),
        (ops.Binary(BinaryFunction.ADD), [(3, 1), (2, 1, 4)], (2, 3, 4)),
        (ops.Reduce(ReduceFunction.SUM, (1, 3), keepdims=False), [IMAGE], (2, 8)),
        (ops.Slice((1, 3), (-1, 8), (None, -10), (-2, -3)), [IMAGE], (2, 2, 8, 3)),
        (ops.Pad((NONE, Padding(1, 2))), [(2, 3)], (2, 6)),
        (ops.Reshape((0, -1, 4)), [(2, 6, 8)], (2, 12, 4)),
        (ops.Transpose((2, 0, 1)), [(2, 3, 4)], (4, 2, 3)),
        (ops.Tile((1, 3)), [(2, 3)], (2, 9)),
        (ops.Gather(1), [(2, 7, 3), of(DType.INT64, 4, 5)], (2, 4, 5, 3)),
        (ops.Compare(CompareFunction.LESS), [(2, 3), (3,)], of(DType.BOOL, 2, 3)),
        (ops.Cast(DType.INT64), [(2, 3)], of(DType.INT64, 2, 3)),
        (ops.ArgMax(1, keepdims=True), [(2, 3)], of(DType.INT32, 2, 1)),
        (ops.Unary(UnaryFunction.ABS), [INTEGERS], INTEGERS),
    ],
    ids=str,
)
def test_types_are_inferred(op: AnyOp, inputs: list[Shape], expected: Shape | TensorType) -> None:
    assert op.infer([typed(entry) for entry in inputs]) == (typed(expected),)


def test_a_second_result_is_inferred() -> None:
    pooled = TensorType((2, 3, 4, 4))
    assert dataclasses.replace(POOL, with_indices=True).infer([TensorType(IMAGE)]) == (
        pooled,
        of(DType.INT32, *pooled.shape),
    )
    assert ops.TopK(2, 1).infer([TensorType((3, 5))]) == (TensorType((3, 2)), of(DType.INT32, 3, 2))


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        (CONV, [IMAGE], "expected 2 to 3 inputs, got 1"),
        (CONV, [(2, 3), (5, 3)], "needs an input of rank 3 or more"),
        (CONV, [IMAGE, (5, 3, 3)], r"kernel of shape \(5, 3, 3\) doesn't fit an input of rank 4"),
        (CONV, [IMAGE, (5, 2, 3, 3)], r"in 1 group\(s\) doesn't fit 3 input channels"),
        (CONV, [IMAGE, (5, 3, 3, 3), (4,)], r"bias of shape \(4,\) doesn't fit 5 output channels"),
        (CONV, [IMAGE, (5, 3, 9, 3)], "empty dimension"),
        (CONV, [INTEGERS, (5, 3, 3, 3)], r"real numbers are needed, got int32\[2, 3, 8, 9\]"),
        (dataclasses.replace(CONV, groups=0), [IMAGE, (5, 3, 3, 3)], "0 groups"),
        (dataclasses.replace(CONV, groups=3), [IMAGE, (5, 1, 3, 3)], r"in 3 group\(s\)"),
        (dataclasses.replace(CONV, stride=(0, 1)), [IMAGE, (5, 3, 3, 3)], r"stride \(0, 1\) has an entry below 1"),
        (dataclasses.replace(CONV, dilation=(1,)), [IMAGE, (5, 3, 3, 3)], "dilation has 1 entries for 2"),
        (dataclasses.replace(CONV, pads=(Padding(0, -1), NONE)), [IMAGE, (5, 3, 3, 3)], "entry below 0"),
        (TRANSPOSED, [IMAGE, (2, 2, 3, 3)], "doesn't fit 3 input channels"),
        (dataclasses.replace(TRANSPOSED, pads=(Padding(9, 9), NONE)), [IMAGE, (3, 2, 3, 3)], "cropping would give"),
        (dataclasses.replace(TRANSPOSED, output_padding=(-1, 0)), [IMAGE, (3, 2, 3, 3)], "entry below 0"),
        (dataclasses.replace(POOL, pads=(Padding(2, 0), NONE)), [IMAGE], "would lie wholly in the padding"),
        (dataclasses.replace(POOL, pads=(Padding(0, 2), NONE)), [IMAGE], "would lie wholly in the padding"),
        (dataclasses.replace(POOL, kernel=(9, 1)), [IMAGE], "empty dimension|wholly"),
        (ops.AveragePool((2, 2), (2, 2), (NONE, NONE)), [INTEGERS], "real numbers"),
        (ops.MaxUnpool((4, 4)), [IMAGE, IMAGE], "indices must be integers, got float32"),
        (ops.MaxUnpool((4, 4)), [IMAGE, of(DType.INT32, 2, 3, 8, 8)], "differ in shape"),
        (ops.MaxUnpool((4, 0)), [IMAGE, INTEGERS], "entry below 1"),
        (ops.Lrn(4, 1.0, 1.0, 1.0), [IMAGE], "must be odd, got 4"),
        (ops.Resize((4, 0), Interpolation.NEAREST, Coordinates.HALF_PIXEL), [IMAGE], "entry below 1"),
        (ops.Resize((4, 4), Interpolation.LINEAR, Coordinates.HALF_PIXEL), [INTEGERS], "real numbers"),
        (ops.Dense(), [(2, 5), (4, 6)], "doesn't fit an input of shape"),
        (ops.Dense(), [(2, 5), (4, 5), (5,)], "doesn't fit 4 output channels"),
        (ops.MatMul(), [(2, 3), (2, 3)], "can't be multiplied"),
        (ops.MatMul(), [(2, 3), (3,)], "need two axes at least"),
        (ops.MatMul(), [(2, 3, 4), (3, 4, 5)], "can't be broadcast together"),
        (ops.Unary(UnaryFunction.EXP), [INTEGERS], "real numbers"),
        (ops.Elu(), [INTEGERS], "real numbers"),
        (ops.PRelu(), [(2, 3), (2, 2, 3)], "don't broadcast to"),
        (ops.Binary(BinaryFunction.ADD), [(2, 3), (2, 4)], "can't be broadcast together"),
        (ops.Binary(BinaryFunction.ADD), [IMAGE, INTEGERS], "element types float32 and int32 differ"),
        (ops.Compare(CompareFunction.LESS), [IMAGE, INTEGERS], "differ"),
        (ops.Where(), [IMAGE, IMAGE, IMAGE], "the condition must be bool, got float32"),
        (ops.Where(), [of(DType.BOOL, 2), (2,), of(DType.INT32, 2)], "differ"),
        (ops.Softmax(2), [(2, 3)], "axis 2 is out of range for an input of rank 2"),
        (ops.Softmax(-1), [(2, 3)], "axis -1 is out of range"),
        (ops.Reduce(ReduceFunction.SUM, (), keepdims=True), [(2, 3)], "one at least"),
        (ops.Reduce(ReduceFunction.SUM, (1, 1), keepdims=True), [(2, 3)], "each one once"),
        (ops.RoiMaxPool(ops.Size(2, 2), 1.0), [(2, 3, 4, 4), (6, 4)], r"have to be \[R, 5\]"),
        (ops.RoiMaxPool(ops.Size(0, 2), 1.0), [(2, 3, 4, 4), (6, 5)], "empty dimension"),
        (LSTM, [(2, 5, 4, 1), (12, 4), (12, 3), (2, 12)], "samples, steps and channels"),
        (LSTM, [(2, 5, 4), (12, 4), (12, 3), (24,)], r"have to be \(12, 4\), \(12, 3\), \(2, 12\)"),
        (LSTM, [(2, 5, 4), (12, 4), (12, 3), (2, 12), (2, 3)], r"\(2, 12\), \(2, 3\), \(2, 3\)"),
        (ops.NonMaxSuppression(0.5, 0.1), [(2, 6, 4), (2, 3, 7)], r"have to be \[N, B, 4\], \[N, C, B\]"),
        (ops.TopK(4, 1), [(2, 3)], "can't take the 4 largest of 3"),
        (ops.Concat(1), [], "expected 1 inputs, got 0"),
        (ops.Concat(1), [(2, 3), (3, 3)], "can't be joined along axis 1"),
        (ops.Concat(1), [(2, 3), (2, 3, 1)], "can't be joined"),
        (ops.Concat(1), [IMAGE, INTEGERS], "can't be joined"),
        (ops.Slice((1,), (2,), (2,)), [(2, 3)], "empty dimension"),
        (ops.Slice((1,), (0,), (2,), (0,)), [(2, 3)], "a step other than 0"),
        (ops.Slice((1, 1), (0, 0), (2, 2)), [(2, 3)], "each axis once"),
        (ops.Slice((1,), (0, 0), (2,)), [(2, 3)], "with a start"),
        (ops.Pad((NONE,)), [(2, 3)], "don't fit an input of rank 2"),
        (ops.Pad((NONE, Padding(-1, 0))), [(2, 3)], "don't fit"),
        (ops.Reshape((-1, -1)), [(2, 3)], "one -1 at most"),
        (ops.Reshape((2, 3, 0)), [(2, 3)], "copies a dimension"),
        (ops.Reshape((4, -1)), [(2, 3)], "can't be reshaped"),
        (ops.Reshape((7,)), [(2, 3)], r"\(6 elements\) can't be reshaped"),
        (ops.Transpose((0, 0)), [(2, 3)], "doesn't permute the axes"),
        (ops.Tile((2,)), [(2, 3)], "don't fit an input of rank 2"),
        (ops.Tile((1, 0)), [(2, 3)], "empty dimension"),
        (ops.Gather(0), [(2, 3), (2,)], "indices must be integers"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(op: AnyOp, inputs: list[Shape], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.infer([typed(entry) for entry in inputs])


@pytest.mark.parametrize("op", [CONV, TRANSPOSED, POOL], ids=lambda op: type(op).__name__)
def test_attributes_for_images_do_not_stretch_to_volumes(op: AnyOp) -> None:
    kernel = [TensorType((3, 3, 2, 2, 2))] if isinstance(op, ops.Conv | ops.ConvTranspose) else []
    with pytest.raises(ShapeError, match="has 2 entries for 3 spatial axes"):
        op.infer([TensorType((2, 3, 4, 5, 6)), *kernel])

"""The table of emitters: for each operation the function that appends its operators to a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from demitasse.ir import ops
from demitasse.ir.graph import Node
from demitasse.writers.tflite import convolution, detection, elementwise, images, pooling, structure
from demitasse.writers.tflite.lowering import Lowering

__all__ = ["EMITTERS", "Emitter"]

Emitter = Callable[[Lowering, Any, Node], None]

EMITTERS: dict[type[ops.AnyOp], Emitter] = {
    ops.Conv: convolution.emit_conv,
    ops.ConvTranspose: convolution.emit_conv_transpose,
    ops.MaxPool: pooling.emit_max_pool,
    ops.AveragePool: pooling.emit_average_pool,
    ops.MaxUnpool: pooling.emit_max_unpool,
    ops.Lrn: images.emit_lrn,
    ops.Resize: images.emit_resize,
    ops.Dense: structure.emit_dense,
    ops.MatMul: structure.emit_mat_mul,
    ops.Unary: elementwise.emit_unary,
    ops.Relu: elementwise.emit_relu,
    ops.LeakyRelu: elementwise.emit_leaky_relu,
    ops.Elu: elementwise.emit_elu,
    ops.Clip: elementwise.emit_clip,
    ops.PRelu: elementwise.emit_prelu,
    ops.Binary: elementwise.emit_binary,
    ops.Compare: elementwise.emit_compare,
    ops.Where: elementwise.emit_where,
    ops.Cast: elementwise.emit_cast,
    ops.Softmax: structure.emit_softmax,
    ops.Reduce: structure.emit_reduce,
    ops.ArgMax: structure.emit_arg_max,
    ops.TopK: structure.emit_top_k,
    ops.NonMaxSuppression: detection.emit_non_max_suppression,
    ops.Concat: structure.emit_concat,
    ops.Slice: structure.emit_slice,
    ops.Pad: structure.emit_pad,
    ops.Reshape: structure.emit_reshape,
    ops.Transpose: structure.emit_transpose,
    ops.Tile: structure.emit_tile,
    ops.Gather: structure.emit_gather,
    ops.Identity: elementwise.emit_identity,
}

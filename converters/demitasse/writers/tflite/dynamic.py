"""Write models whose kernels are 8-bit integers and whose activations are rounded while they run.

Each run finds the range of what it multiplies, so no calibration is needed; what goes in and comes out stays real. The
files are as small as 8-bit ones, and slower: `CONV_2D` and `FULLY_CONNECTED` have such kernels in XNNPACK, a depthwise
convolution does not and stays real.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.writers.tflite.assemble import Draft, assemble
from demitasse.writers.tflite.kernels import LEAST_CHANNEL, product, quantize_kernel
from demitasse.writers.tflite.model import Operator, Tensor

__all__ = ["write_dynamic"]

# Operator: the first version with a real input and a kernel of 8-bit integers, one step a channel
# (tflite/tools/versioning/op_version.cc).
VERSIONS = {"CONV_2D": 5, "FULLY_CONNECTED": 12}
GROUPED = 6  # the version of CONV_2D that has groups; those have no such kernel

# Smaller kernels aren't worth the rounding; TensorFlow's converter draws the same line.
LEAST_SIZE = 1024


def write_dynamic(graph: Graph, path: Path, document: Document) -> None:
    """Write a lowered graph with 8-bit kernels to `path`.

    Raises:
        InvalidGraph: the graph isn't lowered for this target.
    """
    draft = assemble(graph, document)
    _round_kernels(draft)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            draft.write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _round_kernels(draft: Draft) -> None:
    """Store kernels as integers, where all that reads them can take that."""
    model = draft.model
    refused = {
        tensor
        for operator in model.operators
        for tensor in operator.inputs
        if not _is_rounded(operator, tensor) or not model.is_constant(tensor) or tensor.type.size < LEAST_SIZE
    }
    rounded: set[Tensor] = set()
    for place, operator in enumerate(model.operators):
        operands = product(operator)
        if operands is None or operands.kernel in refused:
            continue
        if operands.kernel not in rounded:
            rounded.add(operands.kernel)
            kernel = quantize_kernel(model, operands.kernel, operands.axis)
            kernel.raise_steps(np.full(kernel.steps.shape, kernel.largest * LEAST_CHANNEL or 1.0))
            model.store_integers(operands.kernel, kernel.integers, kernel.steps.reshape(-1), operands.axis)
        fields = dict(operator.fields)
        if operator.code == "FULLY_CONNECTED":
            fields["asymmetricQuantizeInputs"] = True
        model.operators[place] = replace(operator, version=VERSIONS[operator.code], fields=fields)


def _is_rounded(operator: Operator, tensor: Tensor) -> bool:
    """Tell whether a tensor is the kernel of an operator that takes one of integers."""
    operands = product(operator)
    hybrid = operator.code in VERSIONS and operator.version != GROUPED
    return operands is not None and hybrid and operands.kernel == tensor

"""Write 8-bit models: the float model, quantized by ai-edge-quantizer with ranges of our own, and made tidy.

Weights are 8-bit integers with a step a channel, activations with one a tensor, sums and biases 32-bit. Inputs and
outputs stay float32 unless integers are asked for; what then stands last before an output (a softmax, a sigmoid) stays
real too, where its probabilities aren't cut to 256 steps.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import InvalidGraph
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.writers.tflite.assemble import Draft, assemble
from demitasse.writers.tflite.flatbuffer import Constant, write_flatbuffer
from demitasse.writers.tflite.model import Operator
from demitasse.writers.tflite.statistics import Range, Statistics, prepare

__all__ = ["RECIPE", "write_16x8", "write_int8"]

# In the words of ai-edge-quantizer: all operators that it can, per-channel weights, one step an activation.
RECIPE: dict[str, Any] = {
    "regex": ".*",
    "operation": "*",
    "algorithm_key": "min_max_uniform_quantize",
    "op_config": {
        "activation_tensor_config": {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"},
        "weight_tensor_config": {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"},
        "compute_precision": "INTEGER",
        "explicit_dequantize": False,
        "skip_checks": False,
        "min_weight_elements": 0,
    },
}
_WIDE = RECIPE["op_config"] | {
    "activation_tensor_config": {"num_bits": 16, "symmetric": True, "granularity": "TENSORWISE", "dtype": "INT"}
}
WIDE_RECIPE: dict[str, Any] = RECIPE | {"op_config": _WIDE}
REAL_PORTS = ("INPUT", "OUTPUT", "SOFTMAX")
LAST = ("LOGISTIC", "TANH")

# Operators with one input and one result of which the quantizer knows no kernel of integers: the integers that LiteRT
# has one for (tflite/kernels/activations.cc).
UNKNOWN = {"LEAKY_RELU": frozenset({"INT8", "INT16"}), "ELU": frozenset({"INT8"})}

# Operator: the first version with 8-bit integers (tflite/tools/versioning/op_version.cc).
VERSIONS = dict.fromkeys(
    """
    ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION DEQUANTIZE GATHER GELU LOGISTIC MAX_POOL_2D MEAN MUL PAD PADV2
    REDUCE_MIN RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SLICE SOFTMAX STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV
    """.split(),
    2,
) | {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4}

# Operator: the first version with 16-bit integers.
WIDE_VERSIONS = dict.fromkeys(
    """
    ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION DEQUANTIZE LOGISTIC MAX_POOL_2D MEAN PAD PADV2 REDUCE_MIN SOFTMAX
    TANH
    """.split(),
    3,
) | {
    "CONV_2D": 4,
    "DEPTHWISE_CONV_2D": 5,
    "FULLY_CONNECTED": 7,
    "GATHER": 4,
    "LEAKY_RELU": 2,
    "MUL": 4,
    "QUANTIZE": 2,
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "SLICE": 4,
    "SUB": 5,
    "TRANSPOSE": 5,
}

# The reference kernel of RESIZE_BILINEAR steps through an image in units of 1/1024 of an element, rounded, and what the
# step was rounded by grows along the axis (tflite/kernels/internal/reference/resize_bilinear.h).
RESIZE_UNITS = 1024


def write_int8(
    graph: Graph,
    path: Path,
    document: Document,
    ranges: Mapping[str, Range],
    *,
    real: Collection[str] = (),
    int8_io: bool = False,
) -> None:
    """Write an 8-bit model to `path`.

    Args:
        graph: lowered for TFLite.
        path: where the file goes.
        document: what the model says about itself.
        ranges: the smallest and the largest element of each tensor, as `demitasse.quantize.calibrate` finds them.
        real: values of the graph whose nodes compute with real numbers.
        int8_io: whether inputs and outputs are 8-bit integers too.

    Raises:
        UsageError: the ranges aren't those of this graph.
        InvalidGraph: the graph isn't lowered for this target, or LiteRT refuses the result.
    """
    draft = assemble(graph, document, integer=True, real=real)
    statistics = prepare(draft, ranges) if ranges else {}
    _write(draft, path, statistics, _recipe(draft, RECIPE, int8_io=int8_io))


def write_16x8(
    graph: Graph,
    path: Path,
    document: Document,
    ranges: Mapping[str, Range],
    *,
    real: Collection[str] = (),
    int8_io: bool = False,
) -> None:
    """Write a model with 8-bit weights and 16-bit activations: near to the real net, and slow where XNNPACK is absent.

    LiteRT computes it with its reference kernels; it is meant for accelerators and microcontrollers that have 16 bits.
    What has no kernel of 16 bits, or one that would lose more than rounding does, stays real. With `int8_io`, inputs
    and outputs are 16-bit integers.

    Raises:
        UsageError, InvalidGraph: see `write_int8`.
    """
    draft = assemble(graph, document, integer=True, real=real)
    draft = replace(draft, real=draft.real | _drifting(draft))
    statistics = prepare(draft, ranges, wide=True) if ranges else {}
    _write(draft, path, statistics, _recipe(draft, WIDE_RECIPE, int8_io=int8_io))


def _drifting(draft: Draft) -> set[str]:
    """Return the results of operators whose kernel of 16 bits reads an image at the wrong places."""
    return {
        operator.outputs[0].name
        for operator in draft.model.operators
        if operator.code == "RESIZE_BILINEAR" and _rounds_its_step(operator)
    }


def _rounds_its_step(resize: Operator) -> bool:
    corners = int(resize.fields["alignCorners"])
    sizes = zip(resize.inputs[0].shape[1:3], resize.outputs[0].shape[1:3], strict=True)
    return any(RESIZE_UNITS * (before - corners) % max(after - corners, 1) for before, after in sizes)


def _write(draft: Draft, path: Path, statistics: Statistics, recipe: list[dict[str, Any]]) -> None:
    from ai_edge_litert import schema_py_generated as schema

    with io.BytesIO() as file:
        draft.write(file)
        content: bytes | bytearray = file.getvalue()
    if statistics:
        content = _quantized(content, recipe, statistics)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    _absorb(schema, model)
    _name_outputs(model)
    _drop_unused(model)
    _tell_apart(schema, model)
    _set_versions(schema, model)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as target:
            write_flatbuffer(schema, model, [_constant(buffer, content) for buffer in model.buffers], target)
        _check(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _recipe(draft: Draft, chosen: dict[str, Any], *, int8_io: bool) -> list[dict[str, Any]]:
    """Return the recipe for a model: later entries win."""
    kept = [{"regex": f"^{re.escape(name)};", "operation": "*"} for name in sorted(draft.real)]
    if not int8_io:
        kept += [{"regex": ".*", "operation": port} for port in REAL_PORTS]
        outputs = [tensor.name for tensor in draft.outputs.values()]
        kept += [{"regex": f"^{re.escape(name)};", "operation": last} for name in outputs for last in LAST]
    return [chosen, *(scope | {"algorithm_key": "no_quantize"} for scope in kept)]


def _quantized(content: bytes | bytearray, recipe: list[dict[str, Any]], statistics: Statistics) -> bytearray:
    """Let ai-edge-quantizer quantize a model whose kernels are integers already."""
    from ai_edge_quantizer.quantizer import Quantizer

    # It opens the model with all tensors kept, of which LiteRT warns, and draws a progress bar even when told not to.
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        quantizer = Quantizer(content, recipe)
        result = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    return bytearray(result.quantized_model)


def _codes(schema: Any, model: Any) -> list[str]:
    """Return the name of each operator."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    return [codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators]


def _absorb(schema: Any, model: Any) -> None:
    """Let operators that the quantizer doesn't know compute with integers.

    It leaves `DEQUANTIZE`, the operator, `QUANTIZE`. Where all readers of the operator's result quantize it, and LiteRT
    has a kernel for those integers, the operator reads and gives the integers themselves: with the step that its first
    reader wants, from which `QUANTIZE` makes those that others want.
    """
    graph, codes = model.subgraphs[0], _codes(schema, model)
    types = {number: name for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    makers = {int(operator.outputs[0]): place for place, operator in enumerate(graph.operators)}
    readers: dict[int, list[int]] = {}
    for place, operator in enumerate(graph.operators):
        for tensor in operator.inputs:
            readers.setdefault(int(tensor), []).append(place)
    outputs, gone = set(map(int, graph.outputs)), set()
    for place, operator in enumerate(graph.operators):
        result = int(operator.outputs[0])
        before, behind = makers.get(int(operator.inputs[0])), readers.get(result, [])
        if codes[place] not in UNKNOWN or before is None or codes[before] != "DEQUANTIZE" or result in outputs:
            continue
        if not behind or any(codes[reader] != "QUANTIZE" for reader in behind):
            continue
        made = [graph.tensors[int(graph.operators[reader].outputs[0])] for reader in behind]
        given = graph.tensors[int(graph.operators[before].inputs[0])]
        kinds = {types[each.type] for each in (given, *made)}
        if len(kinds) != 1 or not kinds <= UNKNOWN[codes[place]]:
            continue
        operator.inputs = list(graph.operators[before].inputs)
        tensor = graph.tensors[result]
        tensor.type, tensor.quantization = made[0].type, made[0].quantization
        alike = [reader for reader, each in zip(behind, made, strict=True) if _steps(each) == _steps(tensor)]
        _replace(model, {int(graph.operators[reader].outputs[0]): result for reader in alike})
        gone.update(alike)
    graph.operators = [operator for place, operator in enumerate(graph.operators) if place not in gone]


def _steps(tensor: Any) -> tuple[float, int]:
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])


def _replace(model: Any, tensors: Mapping[int, int]) -> None:
    """Let every operator, and the model's outputs, read other tensors in the place of some."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        operator.inputs = [tensors.get(int(tensor), int(tensor)) for tensor in operator.inputs]
    graph.outputs = [tensors.get(int(tensor), int(tensor)) for tensor in graph.outputs]
    for signature in model.signatureDefs:
        for port in signature.outputs:
            port.tensorIndex = tensors.get(port.tensorIndex, port.tensorIndex)


def _name_outputs(model: Any) -> None:
    """Give the float outputs the names of the integers that they are made of, and those the suffix that inputs have."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        result = int(operator.outputs[0])
        name = graph.tensors[int(operator.inputs[0])].name
        if result in graph.outputs and graph.tensors[result].name == name + b"_dequant":
            graph.tensors[result].name = name
            graph.tensors[int(operator.inputs[0])].name = name + b"_quantized"


def _tell_apart(schema: Any, model: Any) -> None:
    """Give tensors names of their own: the quantizer calls all integers that it makes of one tensor the same.

    Those that stand for real numbers keep the name, the first that is read foremost; integers that are made of other
    integers have one that says so.
    """
    graph = model.subgraphs[0]
    for operator, code in zip(graph.operators, _codes(schema, model), strict=True):
        if code == "QUANTIZE" and graph.tensors[int(operator.inputs[0])].type != schema.TensorType.FLOAT32:
            given, made = (graph.tensors[int(tensors[0])] for tensors in (operator.inputs, operator.outputs))
            made.name = given.name + b"_requantized"
    taken = {tensor.name for tensor in graph.tensors}
    seen: set[bytes] = set()
    for tensor in _in_order(model):
        if tensor.name in seen:
            tensor.name = next(name for name in (tensor.name + b".%d" % n for n in count(2)) if name not in taken)
            taken.add(tensor.name)
        seen.add(tensor.name)


def _in_order(model: Any) -> list[Any]:
    """Return the tensors that operators read, in that order, and then the others."""
    graph = model.subgraphs[0]
    places = dict.fromkeys(int(tensor) for operator in graph.operators for tensor in operator.inputs if tensor >= 0)
    places |= dict.fromkeys(range(len(graph.tensors)))
    return [graph.tensors[place] for place in places]


def _drop_unused(model: Any) -> None:
    """Drop operators whose result nobody reads, then tensors and constants that are left over."""
    graph = model.subgraphs[0]
    live = set(map(int, graph.outputs))
    kept: list[Any] = []
    for operator in reversed(graph.operators):
        if live.intersection(map(int, operator.outputs)):
            live.update(map(int, operator.inputs))
            kept.insert(0, operator)
    graph.operators = kept
    live.update(map(int, graph.inputs), (int(tensor) for operator in kept for tensor in operator.outputs))
    places = {old: new for new, old in enumerate(sorted(live - {-1}))} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in places if old >= 0]
    for operator in kept:
        operator.inputs, operator.outputs = (
            [places[int(tensor)] for tensor in tensors] for tensors in (operator.inputs, operator.outputs)
        )
    graph.inputs, graph.outputs = (
        [places[int(tensor)] for tensor in tensors] for tensors in (graph.inputs, graph.outputs)
    )
    for signature in model.signatureDefs:
        for port in (*signature.inputs, *signature.outputs):
            port.tensorIndex = places[port.tensorIndex]
    holders = [*graph.tensors, *model.metadata]
    buffers = {old: new for new, old in enumerate(sorted({0, *(int(holder.buffer) for holder in holders)}))}
    model.buffers = [model.buffers[old] for old in buffers]
    for holder in holders:
        holder.buffer = buffers[int(holder.buffer)]


def _set_versions(schema: Any, model: Any) -> None:
    """List operator codes with the lowest version that computes with integers where an operator does."""
    graph = model.subgraphs[0]
    table: dict[tuple[str, int], int] = {}
    for operator, code in zip(graph.operators, _codes(schema, model), strict=True):
        tensors = [graph.tensors[int(tensor)] for tensor in (*operator.inputs, *operator.outputs) if tensor >= 0]
        version = model.operatorCodes[operator.opcodeIndex].version
        kinds = {tensor.type for tensor in tensors}
        if schema.TensorType.INT16 in kinds:
            version = max(version, WIDE_VERSIONS.get(code, 1))
        elif schema.TensorType.INT8 in kinds:
            version = max(version, 3 if _gains(code, tensors) else VERSIONS.get(code, 1))
        operator.opcodeIndex = table.setdefault((code, version), len(table))
    model.operatorCodes = []
    for code, version in table:
        entry = schema.OperatorCodeT()
        entry.builtinCode = getattr(schema.BuiltinOperator, code)
        entry.deprecatedBuiltinCode = min(entry.builtinCode, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
        entry.version = version
        model.operatorCodes.append(entry)


def _gains(code: str, tensors: Sequence[Any]) -> bool:
    """Tell whether a product's steps multiply to the result's step or more, which kernels learned later."""
    if code != "MUL":
        return False
    left, right, result = (float(tensor.quantization.scale[0]) for tensor in tensors)
    return left * right >= result


def _constant(buffer: Any, content: bytes | bytearray) -> Constant | None:
    """Return what a buffer holds; the quantizer puts large ones behind the tables, by their place in the file."""
    if buffer.data is not None:
        array = np.asarray(buffer.data, np.uint8)
    elif buffer.size:
        array = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    else:
        return None
    return Constant(array.nbytes, lambda: array)


def _check(path: Path) -> None:
    """Make sure that LiteRT takes the model."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        Interpreter(str(path), num_threads=1).allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise InvalidGraph(f"LiteRT refuses the 8-bit model: {error}") from error

"""Recurrent layers, unrolled over time (recurrent_layer.cpp, lstm_layer.cpp, lstm_unit_layer.cpp, rnn_layer.cpp).

The first axis is time. Each step works on `[1, 1, N, ...]`, cut from `[1, T, N, ...]`: so a graph for another number of
steps can't pass for one of this number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from demitasse.ir.ops import Binary, BinaryFunction, Concat, Dense, Identity, Reshape, Slice, Unary, UnaryFunction
from demitasse.readers.caffe.builder import MOST_NUMBERS, LayerBuilder
from demitasse.readers.caffe.registry import reads

_ADD = Binary(BinaryFunction.ADD)
_MUL = Binary(BinaryFunction.MUL)
_SIGMOID = Unary(UnaryFunction.SIGMOID)
_TANH = Unary(UnaryFunction.TANH)

# Each step takes about 15 operations; more steps than this are no net that anyone runs unrolled.
MAX_STEPS = 2048


class Sequences(NamedTuple):
    """What a recurrent layer reads: the number of steps, samples and units, and the contributions to each step."""

    steps: int
    samples: int
    units: int
    gates: list[str]
    cont: list[str]
    initial: tuple[str, ...]


def _sequences(layer: LayerBuilder, gates: int, states: int) -> tuple[Sequences, int]:
    """Read bottoms and parameters that RNN and LSTM share; also return the number of blobs used.

    Bottoms are `x [T, N, ...]`, `cont [T, N]`, optionally a static input `[N, ...]`, and with `expose_hidden` the
    initial states `[1, N, units]`. Blobs are the kernel and bias of x, and the kernel of the static input.
    """
    param = layer.param("recurrent_param")
    units = param.integer("num_output")
    given = states if param.flag("expose_hidden") else 0
    bottoms = layer.inputs(2 + given, 3 + given)
    x, cont = bottoms[:2]
    shape = layer.shape(x)
    if units < 1 or len(shape) < 3 or layer.shape(cont) != shape[:2]:
        raise layer.malformed(f"x {shape} and cont {layer.shape(cont)} have to start with steps and samples alike")
    steps, samples = shape[:2]
    if steps > MAX_STEPS:
        raise layer.unsupported(f"{steps} time steps; layers are unrolled over {MAX_STEPS} at most")
    features = x if len(shape) == 3 else layer.step("features", Reshape((0, 0, -1)), x)
    width = gates * units
    kernel = layer.weight(0, "input_kernel", (width, layer.shape(features)[2]))
    total = layer.step("inputs", Dense(), features, kernel, layer.weight(1, "bias", (width,)))
    blobs = 2
    if len(bottoms) == 3 + given:
        total = layer.step("inputs_with_static", _ADD, total, _static(layer, bottoms[2], samples, width))
        blobs = 3
    layer.fix_batch(f"it is time, {steps} steps of it, over which the layer is unrolled")
    layer.trap("no state is kept from one run to the next: each starts from zeros, as if cont were 0 at the first step")
    states_given = bottoms[len(bottoms) - given :]
    shape = (1, 1, samples, units)
    initial = [layer.step(f"initial_{index}", Reshape(shape), value) for index, value in enumerate(states_given)]
    over_time = layer.step("inputs_over_time", Reshape((1, steps, samples, width)), total)
    cont_over_time = layer.step("cont_over_time", Reshape((1, steps, samples, 1)), cont)
    return (
        Sequences(
            steps,
            samples,
            units,
            _cut(layer, "input", over_time, steps),
            _cut(layer, "cont", cont_over_time, steps),
            tuple(initial),
        ),
        blobs,
    )


def _static(layer: LayerBuilder, x: str, samples: int, width: int) -> str:
    """Multiply the static input, the same at every step, by its kernel."""
    shape = layer.shape(x)
    if len(shape) < 2 or shape[0] != samples:
        raise layer.malformed(f"a static input of shape {shape} doesn't fit {samples} samples")
    flat = x if len(shape) == 2 else layer.step("static_features", Reshape((0, -1)), x)
    kernel = layer.weight(2, "static_kernel", (width, layer.shape(flat)[1]))
    return layer.step("static_inputs", Dense(), flat, kernel)


def _cut(layer: LayerBuilder, what: str, value: str, steps: int) -> list[str]:
    """Cut a value into its time steps, the second axis."""
    if steps == 1:
        return [value]
    return [layer.step(f"{what}_{time}", Slice((1,), (time,), (time + 1,)), value) for time in range(steps)]


def _joined(layer: LayerBuilder, what: str, values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else layer.step(what, Concat(1), *values)


@reads("LSTM")
def lstm(layer: LayerBuilder) -> None:
    """Run a long short-term memory over the steps of a sequence, unrolled; gates in the order i, f, o, g."""
    sequences, blobs = _sequences(layer, gates=4, states=2)
    units = sequences.units
    kernel = layer.weight(blobs, "hidden_kernel", (4 * units, units))
    hidden, cell = sequences.initial or (None, None)
    outputs, last = _run_lstm(layer, sequences.gates, sequences.cont, kernel, hidden, cell)
    layer.emit(Reshape((sequences.steps, sequences.samples, units)), _joined(layer, "outputs", outputs))
    if sequences.initial:
        for state in (outputs[-1], last):
            layer.emit(Reshape((1, sequences.samples, units)), state)


@reads("Lstm")
def lstm_of_one_sequence(layer: LayerBuilder) -> None:
    """Run a long short-term memory over one sequence, `[T, ...]`, unrolled (junhyukoh's fork)."""
    param = layer.param("lstm_param")
    x, *clip = layer.inputs(1, 2)
    units, shape = param.integer("num_output"), layer.shape(x)
    param.ignore("clipping_threshold")  # clips gradients
    if param.integer("batch_size") != 1:
        raise layer.unsupported("a batch_size other than 1, for which the fork reads `clip` at wrong places")
    steps = shape[0]
    if units < 1 or len(shape) < 2 or (clip and math.prod(layer.shape(clip[0])) != steps):
        raise layer.malformed(f"an input of shape {shape} doesn't fit {units} units, or its second bottom")
    if steps > MAX_STEPS:
        raise layer.unsupported(f"{steps} time steps; layers are unrolled over {MAX_STEPS} at most")
    layer.fix_batch(f"it is time, {steps} steps of it, over which the layer is unrolled")
    features = x if len(shape) == 2 else layer.step("features", Reshape((0, -1)), x)
    kernel = layer.weight(0, "input_kernel", (4 * units, layer.shape(features)[1]))
    hidden_kernel = layer.weight(1, "hidden_kernel", (4 * units, units))
    total = layer.step("inputs", Dense(), features, kernel, layer.weight(2, "bias", (4 * units,)))
    over_time = layer.step("inputs_over_time", Reshape((1, steps, 1, 4 * units)), total)
    cont = None
    if clip:
        cont = _cut(layer, "cont", layer.step("cont_over_time", Reshape((1, steps, 1, 1)), clip[0]), steps)
        layer.trap("no state is kept from one run to the next: each starts from zeros")
    outputs, _ = _run_lstm(layer, _cut(layer, "input", over_time, steps), cont, hidden_kernel, None, None)
    layer.emit(Reshape((steps, units)), _joined(layer, "outputs", outputs))


@reads("ContinuationIndicator")
def continuation_indicator(layer: LayerBuilder) -> None:
    """Give 0 for the first time step and 1 for all others, `[T, N]`: a constant."""
    param = layer.param("continuation_indicator_param")
    steps, flag = param.integer("time_step"), param.flag("flag", False)
    axis, samples = param.integer("axis", 1), param.integer("batch_size", 0)
    if not samples:
        shape = layer.shape(layer.x)
        samples = shape[layer.axis(axis, len(shape))]
    if flag or not 1 <= steps <= MAX_STEPS or not 1 <= samples <= MOST_NUMBERS // steps or len(layer.bottoms) > 1:
        raise layer.unsupported(f"an indicator of {steps} steps of {samples} samples, flag {flag}")
    carried = np.ones((steps, samples))
    carried[0] = 0
    layer.fix_batch(f"it is time, {steps} steps of it")
    layer.emit(Identity(), layer.constant("indicator", carried))


def _run_lstm(
    layer: LayerBuilder, inputs: list[str], cont: list[str] | None, kernel: str, hidden: str | None, cell: str | None
) -> tuple[list[str], str]:
    """Run over all steps from an initial state (None for zeros); return every step's h, and the last c.

    `inputs` holds what the sequence gives to the gates of each step, `cont` by how much the state is carried on (None:
    wholly). At each step `c = cont * f * c + i * g` and `h = o * tanh(c)`.
    """
    units = layer.shape(kernel)[1]
    outputs = []
    for time, gates in enumerate(inputs):
        if hidden is not None:
            kept = hidden if cont is None else layer.step(f"kept_{time}", _MUL, hidden, cont[time])
            gates = layer.step(f"gates_{time}", _ADD, gates, layer.step(f"hidden_gates_{time}", Dense(), kept, kernel))
        opened = layer.step(f"opened_{time}", _SIGMOID, _part(layer, f"sigmoids_{time}", gates, 0, 3 * units))
        update = layer.step(f"update_{time}", _TANH, _part(layer, f"tanhs_{time}", gates, 3 * units, 4 * units))
        new = layer.step(f"new_{time}", _MUL, _part(layer, f"i_{time}", opened, 0, units), update)
        if cell is not None:
            forget = _part(layer, f"f_{time}", opened, units, 2 * units)
            forget = forget if cont is None else layer.step(f"forget_{time}", _MUL, forget, cont[time])
            new = layer.step(f"cell_{time}", _ADD, layer.step(f"old_{time}", _MUL, forget, cell), new)
        cell = new
        squashed = layer.step(f"squashed_{time}", _TANH, cell)
        hidden = layer.step(f"hidden_{time}", _MUL, _part(layer, f"o_{time}", opened, 2 * units, 3 * units), squashed)
        outputs.append(hidden)
    return outputs, cell or ""


def _part(layer: LayerBuilder, what: str, value: str, start: int, stop: int) -> str:
    return layer.step(what, Slice((3,), (start,), (stop,)), value)


@reads("RNN")
def rnn(layer: LayerBuilder) -> None:
    """Run a plain recurrent net over the steps of a sequence, unrolled; both its layers end in tanh."""
    sequences, blobs = _sequences(layer, gates=1, states=1)
    units = sequences.units
    kernel = layer.weight(blobs, "hidden_kernel", (units, units))
    output_kernel = layer.weight(blobs + 1, "output_kernel", (units, units))
    output_bias = layer.weight(blobs + 2, "output_bias", (units,))
    hidden = sequences.initial[0] if sequences.initial else None
    states = []
    for time, (total, cont) in enumerate(zip(sequences.gates, sequences.cont, strict=True)):
        if hidden is not None:
            kept = layer.step(f"kept_{time}", _MUL, hidden, cont)
            total = layer.step(f"total_{time}", _ADD, total, layer.step(f"carried_{time}", Dense(), kept, kernel))
        hidden = layer.step(f"hidden_{time}", _TANH, total)
        states.append(hidden)
    outputs = layer.step("outputs", Dense(), _joined(layer, "states", states), output_kernel, output_bias)
    squashed = layer.step("squashed", _TANH, outputs)
    layer.emit(Reshape((sequences.steps, sequences.samples, units)), squashed)
    if sequences.initial and hidden is not None:
        layer.emit(Reshape((1, sequences.samples, units)), hidden)

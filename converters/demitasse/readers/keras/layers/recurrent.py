"""Recurrent layers (Keras' layers/rnn).

A cell is one operation, `Recurrent`, wherever that can say it all. A masked sequence, or an activation that the
operation doesn't have, is written out: as many steps of plain operations as the graph's shapes say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from demitasse.ir import steps
from demitasse.ir.ops import Concat, Recurrent, RecurrentCell, Slice
from demitasse.ir.steps import MOST_STEPS, Step
from demitasse.ir.weights import Array
from demitasse.readers.keras.activations import activate, curve_of
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.config import Layer, parse_layer
from demitasse.readers.keras.registry import reads
from demitasse.readers.keras.weights import member_names, python_class


class _Arrays(NamedTuple):
    """The numbers of a cell, as Keras has them: `(in, gates * units)`, `(units, gates * units)` and the bias."""

    kernel: Callable[[], Array]
    recurrent: Callable[[], Array]
    bias: Callable[[], Array] | None


def _arrays(layer: LayerBuilder, inside: int, gates: str, stored: str, bias_rows: int = 1) -> _Arrays:
    """Ask for a cell's weights.

    Args:
        layer: the cell.
        inside: the width of the inputs.
        gates: a letter for each gate, in today's order.
        stored: the same letters in the order in which Keras 1 stored them, each with weights of its own.
        bias_rows: 2 where a GRU has a bias for the state as well.
    """
    units, part = layer.params.integer("units"), _cell_part(layer)
    uses_bias = layer.params.flag("use_bias", True)
    if layer.generation.major < 2 and len(gates) > 1 and layer.params.get("implementation") != "gpu":
        shapes = {"W": (inside, units), "U": (units, units), "b": (units,)}
        slots = {(kind, gate): layer.slot(f"{kind}_{gate}", shapes[kind]) for gate in stored for kind in "WUb"}

        def joined(kind: str) -> Callable[[], Array]:
            return lambda: np.concatenate([slots[kind, gate].numbers() for gate in gates], axis=-1)

        return _Arrays(joined("W"), joined("U"), joined("b"))
    width = len(gates) * units
    kernel = layer.slot("kernel", (inside, width), part=part)
    recurrent = layer.slot("recurrent_kernel", (units, width), part=part)
    shape = (width,) if bias_rows == 1 else (bias_rows, width)
    bias = layer.slot("bias", shape, part=part) if uses_bias else None
    return _Arrays(kernel.numbers, recurrent.numbers, bias.numbers if bias is not None else None)


def _cudnn_arrays(layer: LayerBuilder, inside: int, gates: int) -> _Arrays:
    """Ask for a cell's weights as NVIDIA's library orders them (`_convert_rnn_weights` in tf-keras' hdf5_format.py).

    Each gate's kernels are transposed, those of the inputs with their memory as it is. There are two biases, one for
    the inputs and one for the state.
    """
    units = layer.params.integer("units")
    kernel = layer.slot("kernel", (inside, gates * units))
    recurrent = layer.slot("recurrent_kernel", (units, gates * units))
    bias = layer.slot("bias", (2 * gates * units,))

    def by_gate(array: Array, change: Callable[[Array], Array]) -> Array:
        return np.hstack([change(part) for part in np.hsplit(array, gates)])

    return _Arrays(
        lambda: by_gate(kernel.numbers(), lambda part: part.T.reshape(part.shape, order="F")),
        lambda: by_gate(recurrent.numbers(), np.transpose),
        lambda: bias.numbers().reshape(2, -1),
    )


def _cell_part(layer: LayerBuilder) -> tuple[str, ...]:
    return () if layer.kind.endswith("Cell") else ("cell",)


# --- cells ------------------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """A cell that is ready to run: its weights as `Recurrent` takes them, and its activations as Keras names them.

    Attributes:
        layer: the layer that has the weights.
        kind: what is computed at each step.
        kernel: what the inputs are multiplied by.
        recurrent: what the state is multiplied by.
        bias: what is added to both, if anything.
        activation: the activation of candidates and outputs.
        gate: the activation of gates.
    """

    layer: LayerBuilder
    kind: RecurrentCell
    kernel: str
    recurrent: str
    bias: str | None
    activation: Any
    gate: Any


def _cell(
    layer: LayerBuilder, kind: RecurrentCell, arrays: _Arrays, inside: int, order: Sequence[int], gate: Any = "sigmoid"
) -> _Cell:
    """Add a cell's weights to the graph; `order` lists the places of Keras' gates in the order of `Recurrent`."""
    units, width = layer.params.integer("units"), len(order) * layer.params.integer("units")

    def reordered(array: Array) -> Array:
        gates = np.split(array, len(order), axis=-1)
        return np.concatenate([gates[place] for place in order], axis=-1)

    bias = arrays.bias
    return _Cell(
        layer,
        kind,
        layer.derived("kernel", (width, inside), lambda: reordered(arrays.kernel()).T),
        layer.derived("recurrent_kernel", (width, units), lambda: reordered(arrays.recurrent()).T),
        None if bias is None else layer.derived("bias", (2, width), lambda: reordered(_two_rows(bias()))),
        layer.params.get("activation", "tanh"),
        gate,
    )


def _two_rows(bias: Array) -> Array:
    """Return a bias for the inputs and one for the state, which is zero where there is but one."""
    return bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])


def _inner_activation(layer: LayerBuilder) -> Any:
    return layer.params.get("recurrent_activation", "sigmoid" if layer.kind.startswith("CuDNN") else "hard_sigmoid")


def _simple_cell(layer: LayerBuilder, inside: int) -> _Cell:
    return _cell(layer, RecurrentCell.PLAIN, _arrays(layer, inside, "h", "h"), inside, (0,))


def _lstm_cell(layer: LayerBuilder, inside: int) -> _Cell:
    cudnn = layer.kind == "CuDNNLSTM"
    arrays = _cudnn_arrays(layer, inside, 4) if cudnn else _arrays(layer, inside, "ifco", "icfo")
    return _cell(layer, RecurrentCell.LSTM, arrays, inside, (0, 3, 1, 2), _inner_activation(layer))


def _gru_cell(layer: LayerBuilder, inside: int) -> _Cell:
    cudnn = layer.kind == "CuDNNGRU"
    reset_after = cudnn or layer.params.flag("reset_after", False)
    rows = 2 if reset_after else 1
    arrays = _cudnn_arrays(layer, inside, 3) if cudnn else _arrays(layer, inside, "zrh", "zrh", bias_rows=rows)
    kind = RecurrentCell.GRU_RESET_AFTER if reset_after else RecurrentCell.GRU
    return _cell(layer, kind, arrays, inside, (0, 1, 2), _inner_activation(layer))


_CELLS: Mapping[str, Callable[[LayerBuilder, int], _Cell]] = {
    "SimpleRNN": _simple_cell,
    "SimpleRNNCell": _simple_cell,
    "LSTM": _lstm_cell,
    "LSTMCell": _lstm_cell,
    "GRU": _gru_cell,
    "GRUCell": _gru_cell,
    "CuDNNLSTM": _lstm_cell,
    "CuDNNGRU": _gru_cell,
}


# --- sequences --------------------------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """What running over a sequence gives.

    Attributes:
        last: the output of the last step that was run.
        as_run: makes a sequence of all outputs in the order in which they were computed.
        turned: makes one of them in the contrary order.
        states: the states after the last step that was run.
    """

    last: Operand
    as_run: Callable[[], Operand]
    turned: Callable[[], Operand]
    states: tuple[Operand, ...]


def _heeded_padding(layer: LayerBuilder, x: str) -> Operand | None:
    """Return what tells the steps that are padding; Keras 3 forgets a mask where initial states are given besides.

    It looks for the mask of a call's only tensor (`Layer.__call__`), unless the call states a mask itself.
    """
    padding = layer.padding(x)
    if padding is None or layer.generation.major < 3 or layer.argument(1, "initial_state") is None:
        return padding
    if layer.argument(9, "mask") is not None:
        return padding
    layer.trap("Keras 3 does not heed the mask of a sequence where initial states are given")
    return None


def _absent(layer: LayerBuilder, x: str, *, backwards: bool) -> list[Operand] | None:
    """List, in the order in which they are run, what is true where a step is padding; None where none can be."""
    count, padding = layer.shape(x)[1], _heeded_padding(layer, x)
    if padding is None:
        return None
    _check_count(layer, count)
    places = reversed(range(count)) if backwards else range(count)
    return [layer.apply(Slice((1,), (place,), (place + 1,)), padding) for place in places]


def _check_count(layer: LayerBuilder, count: int) -> None:
    if count > MOST_STEPS:
        raise layer.unsupported(
            f"a sequence of {count} steps; with a mask, or activations that ONNX's operators lack, up to {MOST_STEPS}"
            " are written out"
        )


def _run(
    cell: _Cell, x: str, initial: Sequence[str], absent: Sequence[str] | None, *, backwards: bool, zeroed: bool
) -> _Run:
    """Run a cell over `(N, steps, in)`, as one operation where that can say it all, and step by step elsewhere."""
    activation, gate = (curve_of(cell.layer, each) for each in (cell.activation, cell.gate))
    if absent is not None or activation is None or gate is None:
        return _run_by_steps(cell, x, initial, absent, backwards=backwards, zeroed=zeroed)
    layer, bias = cell.layer, [cell.bias] if cell.bias is not None else []
    op = Recurrent(cell.kind, activation, gate, backwards=backwards, is_biased=bool(bias))
    inputs = [x, cell.kernel, cell.recurrent, *bias, *initial]
    sequence, *states = layer.apply_all(op, *inputs, results=1 + cell.kind.states)

    def turned() -> Operand:
        return layer.apply(Slice((1,), (-1,), (None,), (-1,)), sequence)

    either = (turned, lambda: sequence) if backwards else (lambda: sequence, turned)
    return _Run(states[0], *either, tuple(states))


def _run_by_steps(
    cell: _Cell, x: str, initial: Sequence[str], absent: Sequence[str] | None, *, backwards: bool, zeroed: bool
) -> _Run:
    layer, count = cell.layer, cell.layer.shape(x)[1]
    _check_count(layer, count)
    functions = [partial(_activated, layer, each) for each in (cell.activation, cell.gate)]
    written = steps.Cell(cell.kind, cell.kernel, cell.recurrent, cell.bias, *functions)
    places = reversed(range(count)) if backwards else range(count)
    order = list(map(Step, places, absent if absent is not None else repeat(None)))
    outputs, states = steps.run(layer, written, x, initial, order, zeroed=zeroed)

    def stacked(outputs: Sequence[str]) -> Operand:
        return Operand(steps.stacked(layer, outputs))

    last = tuple(map(Operand, states))
    return _Run(Operand(outputs[-1]), lambda: stacked(outputs), lambda: stacked(outputs[::-1]), last)


def _activated(layer: LayerBuilder, activation: Any, x: str) -> str:
    return activate(layer, x, "linear" if activation is None else activation)


def _recurrent(layer: LayerBuilder, *, both_ways: bool = False) -> list[Operand]:
    """Run a recurrent layer; returns its output and, where asked for, its states.

    `both_ways` is for the halves of a Bidirectional: outputs of the one that runs backwards are in the order of time.
    """
    params = layer.params
    if params.flag("stateful", False):
        raise layer.unsupported(
            "a state that is kept from one batch to the next; save the net with stateful=False, or take the states "
            "as inputs (initial_state) and give them back (return_state)"
        )
    if params.flag("time_major", False):
        raise layer.unsupported("sequences whose first axis is time")
    inputs = layer.inputs(1, 9)
    x, initial = layer.real(inputs[0]), [*inputs[1:], *_initial_state(layer)]
    if layer.rank(x) != 3:
        raise layer.malformed(f"its input has {layer.rank(x)} axes, and needs three: samples, steps and channels")
    backwards = params.flag("go_backwards", False)
    sequences = params.flag("return_sequences", False)
    # tf.keras and Keras 3 make the outputs of padded steps zero in a Bidirectional (force_zero_output_for_mask).
    forced = both_ways and sequences and (layer.generation.is_tensorflow or layer.generation.major > 2)
    zeroed = params.flag("zero_output_for_mask", False) or forced
    absent = _absent(layer, inputs[0], backwards=backwards)
    run: _Run | None = None
    states: list[Operand] = []
    for builder, factory in _cells(layer):
        # A further cell of a stack takes the outputs in the order in which the one before computed them.
        x = x if run is None else run.as_run()
        cell = factory(builder, layer.shape(x)[2])
        own, initial = initial[: cell.kind.states], initial[cell.kind.states :]
        run = _run(cell, x, own, absent, backwards=backwards and run is None, zeroed=zeroed)
        layer.take_over(builder)
        states += run.states
    if run is None or initial:
        raise layer.malformed("it has no cells, or more initial states than its cells")
    output = run.last
    if sequences:
        output = run.turned() if backwards and both_ways else run.as_run()
        padding = layer.padding(inputs[0])
        if padding is not None and not backwards:
            layer.mark_padding(output, padding)
    return [output, *states] if params.flag("return_state", False) else [output]


def _initial_state(layer: LayerBuilder) -> list[Operand]:
    given = layer.argument(1, "initial_state")
    if given is None:
        return []
    return [given] if isinstance(given, Operand) else [Operand(state) for state in given]


def _cells(layer: LayerBuilder) -> list[tuple[LayerBuilder, Callable[[LayerBuilder, int], _Cell]]]:
    """Return the cells of a layer, with the builders that they ask for their weights."""
    if layer.kind in _CELLS:
        return [(layer, _CELLS[layer.kind])]
    stated = parse_layer(layer.params.get("cell"), layer.origin.where)
    cells: list[tuple[Layer, tuple[str, ...]]] = [(stated, ("cell",))]
    if stated.kind == "StackedRNNCells":
        entries = stated.config.get("cells") or []
        parsed = [parse_layer(entry, layer.origin.where) for entry in entries]
        names = ("cell", "cells")
        cells = [
            (each, (*names, member))
            for each, member in zip(parsed, member_names(map(python_class, parsed)), strict=True)
        ]
    unknown = [each.kind for each, _ in cells if each.kind not in _CELLS]
    if unknown:
        raise layer.unsupported(f"no reader for the cell {', '.join(unknown)}")
    return [(layer.child(each, part, [layer.inputs(1, 9)[0]]), _CELLS[each.kind]) for each, part in cells]


@reads("SimpleRNN")
def simple_rnn(layer: LayerBuilder) -> Sequence[str]:
    """Run the plain recurrent cell over a sequence."""
    return _recurrent(layer)


@reads("LSTM", "CuDNNLSTM")
def lstm(layer: LayerBuilder) -> Sequence[str]:
    """Run a long short-term memory over a sequence."""
    return _recurrent(layer)


@reads("GRU", "CuDNNGRU")
def gru(layer: LayerBuilder) -> Sequence[str]:
    """Run a gated recurrent unit over a sequence; its reset gate before or after the product."""
    return _recurrent(layer)


@reads("RNN")
def rnn(layer: LayerBuilder) -> Sequence[str]:
    """Run a cell, or a stack of cells, over a sequence."""
    return _recurrent(layer)


# --- both ways --------------------------------------------------------------------------------------------------------


def _backward_config(forward: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a layer that runs the other way round."""
    config = dict(forward["config"])
    config["go_backwards"] = not config.get("go_backwards")
    return {**forward, "config": config}


@reads("Bidirectional")
def bidirectional(layer: LayerBuilder) -> Sequence[str]:
    """Run a recurrent layer over a sequence from both ends, and join the outputs."""
    params = layer.params
    stated = params.get("layer")
    if not isinstance(stated, Mapping) or not isinstance(stated.get("config"), Mapping):
        raise layer.malformed("it states no layer")
    ahead = parse_layer(dict(stated), layer.origin.where)
    back = parse_layer(params.get("backward_layer") or _backward_config(stated), layer.origin.where)
    inputs = layer.inputs(1, 9)
    initial = [*inputs[1:], *_initial_state(layer)]
    half, mask = len(initial) // 2, layer.argument(9, "mask")
    results = []
    for inner, part, states in ((ahead, "forward_layer", initial[:half]), (back, "backward_layer", initial[half:])):
        if inner.kind not in (*_CELLS, "RNN"):
            raise layer.unsupported(f"a {inner.kind}, which is no recurrent layer with a reader")
        child = layer.child(inner, (part,), [inputs[0]], {"initial_state": states or None, "mask": mask})
        results.append(child.finish(_recurrent(child, both_ways=True), named=False))
        layer.take_over(child)
    output = _joined(layer, results[0][0], results[1][0])
    padding = layer.padding(inputs[0])
    if padding is not None and ahead.config.get("return_sequences"):
        for value in output:
            layer.mark_padding(value, padding)
    return [*output, *results[0][1:], *results[1][1:]]


def _joined(layer: LayerBuilder, ahead: Operand, back: Operand) -> list[Operand]:
    match layer.params.get("merge_mode"):
        case "concat":
            return [layer.apply(Concat(layer.rank(ahead) - 1), ahead, back)]
        case "sum":
            return [layer.add(ahead, back)]
        case "ave":
            return [layer.mul(layer.add(ahead, back), 0.5)]
        case "mul":
            return [layer.mul(ahead, back)]
        case None:
            return [ahead, back]
        case mode:
            raise layer.malformed(f"'merge_mode' is {mode!r}")

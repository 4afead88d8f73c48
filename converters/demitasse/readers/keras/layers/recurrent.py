"""Recurrent layers (Keras' layers/rnn), step by step.

A sequence has as many steps as the graph's shapes say, so a recurrent layer is written out as that many steps of plain
operations: exact in every runtime. All inputs are multiplied by the kernel at once. The first step knows that the state
is zero, and leaves out what is multiplied by it; so no step depends on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from demitasse.ir.ops import Concat, Dense, Slice, Where
from demitasse.ir.weights import Array
from demitasse.readers.keras.activations import activate
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.config import Layer, parse_layer
from demitasse.readers.keras.registry import reads
from demitasse.readers.keras.weights import member_names, python_class

_MOST_STEPS = 2048
"""Longer sequences are refused: each step is a dozen operations of the graph."""

States: TypeAlias = tuple[Operand, ...]


class Cell(NamedTuple):
    """A cell that is ready to run.

    Attributes:
        kernel: what the inputs are multiplied by, `[gates * units, in]`.
        bias: what is added to that, if anything.
        units: the width of each state.
        states: how many states there are; the first is the output.
        step: computes the new states from a projected input and the old states, which are None where they are zero.
    """

    kernel: str
    bias: str | None
    units: int
    states: int
    step: Callable[[Operand, States | None], States]


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

    Each gate's kernels are transposed, those of the inputs with their memory as it is. There are two biases; an LSTM
    adds them up, a GRU has one for the inputs and one for the state.
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
        lambda: bias.numbers().reshape(2, -1).sum(0) if gates == 4 else bias.numbers().reshape(2, -1),
    )


def _cell_part(layer: LayerBuilder) -> tuple[str, ...]:
    return () if layer.kind.endswith("Cell") else ("cell",)


def _transposed(layer: LayerBuilder, role: str, compute: Callable[[], Array], rows: int, columns: int) -> str:
    return layer.derived(role, (columns, rows), lambda: compute().T)


def _gate(layer: LayerBuilder, x: str, index: int, units: int, count: int = 1) -> Operand:
    """Cut `count` gates out of the last axis."""
    return layer.apply(Slice((1,), (index * units,), ((index + count) * units,)), x)


def _inner_activation(layer: LayerBuilder, x: str) -> Operand:
    default = "sigmoid" if layer.kind.startswith("CuDNN") else "hard_sigmoid"
    return activate(layer, x, layer.params.get("recurrent_activation", default))


# --- cells ------------------------------------------------------------------------------------------------------------


def _simple_cell(layer: LayerBuilder, inside: int) -> Cell:
    units = layer.params.integer("units")
    arrays = _arrays(layer, inside, "h", "h")
    recurrent = _transposed(layer, "recurrent", arrays.recurrent, units, units)
    activation = layer.params.get("activation", "tanh")

    def step(x: Operand, states: States | None) -> States:
        if states is not None:
            x = layer.add(x, layer.apply(Dense(), states[0], recurrent))
        return (activate(layer, x, activation),)

    return Cell(*_projection(layer, arrays, inside, units), units, 1, step)


def _projection(layer: LayerBuilder, arrays: _Arrays, inside: int, width: int) -> tuple[str, str | None]:
    """Add the kernel and bias that all inputs meet."""
    kernel = _transposed(layer, "input", arrays.kernel, inside, width)
    bias = arrays.bias
    return kernel, None if bias is None else layer.derived("input_bias", (width,), lambda: bias().reshape(-1)[:width])


def _lstm_cell(layer: LayerBuilder, inside: int) -> Cell:
    """Compute `c' = f c + i g`, `h' = o tanh(c')` (Hochreiter and Schmidhuber 1997; with Gers et al. 2000)."""
    units, cudnn = layer.params.integer("units"), layer.kind == "CuDNNLSTM"
    arrays = _cudnn_arrays(layer, inside, 4) if cudnn else _arrays(layer, inside, "ifco", "icfo")
    recurrent = _transposed(layer, "recurrent", arrays.recurrent, units, 4 * units)
    activation = layer.params.get("activation", "tanh")

    def step(x: Operand, states: States | None) -> States:
        if states is not None:
            x = layer.add(x, layer.apply(Dense(), states[0], recurrent))
        gates = _inner_activation(layer, _gate(layer, x, 0, units, 2))
        candidate = activate(layer, _gate(layer, x, 2, units), activation)
        output = _inner_activation(layer, _gate(layer, x, 3, units))
        carry = layer.mul(_gate(layer, gates, 0, units), candidate)
        if states is not None:
            carry = layer.add(layer.mul(_gate(layer, gates, 1, units), states[1]), carry)
        return layer.mul(output, activate(layer, carry, activation)), carry

    return Cell(*_projection(layer, arrays, inside, 4 * units), units, 2, step)


def _gru_cell(layer: LayerBuilder, inside: int) -> Cell:
    """Compute `h' = z h + (1 - z) g` (Cho et al. 2014), the reset gate before or after the state's product."""
    params = layer.params
    units, cudnn = params.integer("units"), layer.kind == "CuDNNGRU"
    reset_after = cudnn or params.flag("reset_after", False)
    rows = 2 if reset_after else 1
    arrays = _cudnn_arrays(layer, inside, 3) if cudnn else _arrays(layer, inside, "zrh", "zrh", bias_rows=rows)
    kernel, bias = _projection(layer, arrays, inside, 3 * units)
    recurrent = arrays.recurrent
    gates_kernel = layer.derived("recurrent_gates", (2 * units, units), lambda: recurrent()[:, : 2 * units].T)
    state_kernel = layer.derived("recurrent_state", (units, units), lambda: recurrent()[:, 2 * units :].T)
    gates_bias, state_bias = _gru_biases(layer, arrays.bias, units) if reset_after else (None, None)
    activation = params.get("activation", "tanh")

    def product(state: str | None, weight: str, offset: str | None) -> str | None:
        """Multiply a state that may be zero and add a bias that may not be; None where nothing comes of it."""
        if state is None:
            return offset
        return layer.apply(Dense(), state, weight, *([offset] if offset is not None else []))

    def added(x: str, term: str | None) -> str:
        return x if term is None else layer.add(x, term)

    def step(x: Operand, states: States | None) -> States:
        state = states[0] if states is not None else None
        gates = _inner_activation(layer, added(_gate(layer, x, 0, units, 2), product(state, gates_kernel, gates_bias)))
        update, reset = _gate(layer, gates, 0, units), _gate(layer, gates, 1, units)
        if reset_after:
            inner = product(state, state_kernel, state_bias)
            inner = None if inner is None else layer.mul(reset, inner)
        else:
            inner = product(None if state is None else layer.mul(reset, state), state_kernel, None)
        candidate = activate(layer, added(_gate(layer, x, 2, units), inner), activation)
        fresh = layer.mul(layer.sub(1.0, update), candidate)
        return (fresh if state is None else layer.add(layer.mul(update, state), fresh),)

    return Cell(kernel, bias, units, 1, step)


def _gru_biases(layer: LayerBuilder, bias: Callable[[], Array] | None, units: int) -> tuple[str | None, str | None]:
    """Add the second row of the bias, which the state meets: the part of the gates, and the rest."""
    if bias is None:
        return None, None
    return (
        layer.derived("gates_bias", (2 * units,), lambda: bias()[1, : 2 * units]),
        layer.derived("state_bias", (units,), lambda: bias()[1, 2 * units :]),
    )


_CELLS: Mapping[str, Callable[[LayerBuilder, int], Cell]] = {
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
    """What running over a sequence gives: the outputs in the order in which they were computed, and the last states."""

    outputs: list[Operand]
    states: States


class _Step(NamedTuple):
    """A step of a sequence: its place there, and the value that is true where it is padding, if it can be."""

    place: int
    absent: Operand | None


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


def _steps(layer: LayerBuilder, x: str, *, backwards: bool) -> list[_Step]:
    """List the steps of a sequence in the order in which they are run."""
    count, padding = layer.shape(x)[1], _heeded_padding(layer, x)
    if count > _MOST_STEPS:
        raise layer.unsupported(f"a sequence of {count} steps; up to {_MOST_STEPS} are written out")
    return [
        _Step(place, None if padding is None else layer.apply(Slice((1,), (place,), (place + 1,)), padding))
        for place in (reversed(range(count)) if backwards else range(count))
    ]


def _run(
    layer: LayerBuilder, cell: Cell, x: str, initial: Sequence[str], steps: Sequence[_Step], *, zeroed: bool
) -> _Run:
    """Run a cell over `(N, steps, in)`; a padded step keeps the states, and repeats the output or makes it zero."""
    projected = layer.apply(Dense(), x, cell.kernel, *([cell.bias] if cell.bias is not None else []))
    states: States | None = tuple(map(Operand, initial)) if initial else None
    outputs: list[Operand] = []
    for place, absent in steps:
        fresh = cell.step(_at(layer, projected, place), states)
        output = fresh[0]
        if absent is not None:
            zero = layer.constant(0.0)
            before = states or (zero,) * cell.states
            fresh = tuple(layer.apply(Where(), absent, *pair) for pair in zip(before, fresh, strict=True))
            last = zero if zeroed or not outputs else outputs[-1]
            output = layer.apply(Where(), absent, last, output)
        states = fresh
        outputs.append(output)
    return _Run(outputs, states or ())


def _at(layer: LayerBuilder, x: str, index: int) -> Operand:
    """Take one step out of a sequence."""
    cut = layer.apply(Slice((1,), (index,), (index + 1,)), x)
    return layer.reshape(cut, 0, layer.shape(x)[2])


def _stacked(layer: LayerBuilder, outputs: Sequence[str]) -> Operand:
    """Make a sequence of its steps."""
    width = layer.shape(outputs[0])[1]
    return layer.apply(Concat(1), *(layer.reshape(output, 0, 1, width) for output in outputs))


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
    steps = _steps(layer, inputs[0], backwards=backwards)
    run: _Run | None = None
    states: list[Operand] = []
    for builder, factory in _cells(layer):
        cell = factory(builder, layer.shape(x)[2])
        own, initial = initial[: cell.states], initial[cell.states :]
        run = _run(builder, cell, x, own, steps, zeroed=zeroed)
        # A further cell of a stack takes the outputs in the order in which the one before computed them.
        steps = [step._replace(place=index) for index, step in enumerate(steps)]
        layer.take_over(builder)
        states += run.states
        x = _stacked(layer, run.outputs)
    if run is None or initial:
        raise layer.malformed("it has no cells, or more initial states than its cells")
    output = run.outputs[-1]
    if sequences:
        output = _stacked(layer, run.outputs[::-1]) if backwards and both_ways else x
        padding = layer.padding(inputs[0])
        if padding is not None and not backwards:
            layer.mark_padding(output, padding)
    return [output, *states] if params.flag("return_state", False) else [output]


def _initial_state(layer: LayerBuilder) -> list[Operand]:
    given = layer.argument(1, "initial_state")
    if given is None:
        return []
    return [given] if isinstance(given, Operand) else [Operand(state) for state in given]


def _cells(layer: LayerBuilder) -> list[tuple[LayerBuilder, Callable[[LayerBuilder, int], Cell]]]:
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
    """Run the plain recurrent cell over a sequence, step by step."""
    return _recurrent(layer)


@reads("LSTM", "CuDNNLSTM")
def lstm(layer: LayerBuilder) -> Sequence[str]:
    """Run a long short-term memory over a sequence, step by step."""
    return _recurrent(layer)


@reads("GRU", "CuDNNGRU")
def gru(layer: LayerBuilder) -> Sequence[str]:
    """Run a gated recurrent unit over a sequence, step by step; its reset gate before or after the product."""
    return _recurrent(layer)


@reads("RNN")
def rnn(layer: LayerBuilder) -> Sequence[str]:
    """Run a cell, or a stack of cells, over a sequence, step by step."""
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

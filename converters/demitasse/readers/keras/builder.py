"""What a layer's reader function works with: its configuration, inputs and weights, and the graph that it adds to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from demitasse.errors import MalformedModel, Offence, Unsupported
from demitasse.ir.graph import Graph, Node, Origin, Value
from demitasse.ir.ops import (
    AnyOp,
    Binary,
    BinaryFunction,
    Cast,
    Compare,
    CompareFunction,
    DType,
    Identity,
    Layout,
    Reshape,
    Shape,
    TensorType,
    Transpose,
    Unary,
    UnaryFunction,
)
from demitasse.ir.weights import Array
from demitasse.readers.keras.config import Call, Generation, Layer
from demitasse.readers.keras.expression import Expression
from demitasse.readers.keras.params import Params
from demitasse.readers.keras.weights import Form, Slot
from demitasse.readers.reading import Trap

__all__ = ["Assembly", "LayerBuilder", "LayerFunction", "Operand", "Result"]


class Operand(str):
    """The name of a value of the graph, which tells it from a string that is an argument."""

    __slots__ = ()


Result: TypeAlias = "str | Sequence[str]"
LayerFunction: TypeAlias = "Callable[[LayerBuilder], Result]"
Number: TypeAlias = "float | Array"


@dataclass(eq=False)
class Assembly:
    """Holds what the layers of a net have in common while its graph is built.

    Attributes:
        graph: the graph that is built.
        file: the file's name for messages.
        generation: the Keras that wrote the file.
        readers: the function of each kind of layer.
        expressions: what stands for the code of Lambda layers, by their names.
        run: adds a layer that another one wraps.
        slots: the weights that layers asked for.
        padding: for values that carry a mask, the value that is true where they are padding.
        flips: whether some weight stands the other way round in a file of Theano.
        traps: what the layers' readers found worth telling.
    """

    graph: Graph
    file: str
    generation: Generation
    readers: Mapping[str, LayerFunction]
    expressions: Mapping[str, Expression]
    run: Callable[[LayerBuilder, Layer, Sequence[Any]], list[Operand]]
    slots: dict[tuple[tuple[str, ...], tuple[str, ...], str], Slot] = field(default_factory=dict)
    padding: dict[str, Operand] = field(default_factory=dict)
    flips: bool = False
    traps: list[Trap] = field(default_factory=list)
    _weights: dict[tuple[str, Shape], str] = field(default_factory=dict)

    def put(self, name: str, type: TensorType, compute: Callable[[], Array]) -> str:
        """Add a weight that is computed when it is asked for; one of the same name and type is there already."""
        key = (name, type.shape)
        if key not in self._weights:
            self._weights[key] = self.graph.weights.defer(self.graph.fresh(name), type, compute)
        return self._weights[key]


@dataclass(frozen=True)
class Place:
    """Where a layer stands: its name and position in the nets around it, and which of its parts this is.

    Attributes:
        name: what its values are called: `outer/conv1`, and `outer/conv1:1` for the second call.
        owner: what its weights are called: `outer/conv1`, for all calls.
        route: the names of the nets around it and its own.
        position: the same as numbers.
        part: the layer's own part, as Keras calls its attributes: `("forward_layer", "cell")`.
        trained: whether the layer, and all that it is in, is trained.
    """

    name: str
    owner: str
    route: tuple[str, ...]
    position: tuple[int, ...]
    part: tuple[str, ...] = ()
    trained: bool = True


class LayerBuilder:
    """Reads one call of a layer into the graph.

    A reader function returns the result, or a list of results; the operation that gives it gets the layer's name.

    Attributes:
        name: the layer's name, with the nets around it and the number of the call.
        kind: the layer's class in today's spelling.
        origin: the layer, as every node and message names it.
        params: the layer's configuration in today's spelling.
        generation: the Keras that wrote the file.
    """

    def __init__(self, layer: Layer, call: Call, place: Place, assembly: Assembly) -> None:
        self.name = place.name
        self.kind = layer.kind
        self.origin = Origin(place.name, layer.source_kind, assembly.file)
        self.params = Params(layer.config, self.origin.where)
        self.generation = assembly.generation
        self.place = place
        self._call = call
        self._assembly = assembly
        self._graph = assembly.graph
        self._arguments_read: set[str | int] = set()
        self._stated_padding: Operand | None = None
        self._first_node = len(assembly.graph.nodes)
        self._own: set[str] = set()
        self._counts: dict[str, int] = {}

    # --- what the layer is given --------------------------------------------------------------------------------------

    @property
    def x(self) -> Operand:
        """The only input.

        Raises:
            MalformedModel: there are more, or none.
        """
        return self.inputs(1)[0]

    def inputs(self, least: int, most: int | None = None) -> tuple[Operand, ...]:
        """Return the values that the layer is called on, `least` to `most` (exactly `least` where `most` is None).

        Raises:
            MalformedModel: there are more or fewer.
        """
        self._arguments_read.add(0)
        found = tuple(_operands(self._call.args[:1])) if self._call.args else tuple(_operands([self._call.kwargs]))
        most = least if most is None else most
        if not least <= len(found) <= most:
            wanted = str(least) if least == most else f"{least} or more" if most > 99 else f"{least} to {most}"
            raise self.malformed(f"it is called on {len(found)} tensors, and needs {wanted}")
        return found

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument of the call by position or name, or else one of the constructor: `Operand` or constant."""
        self._arguments_read |= {position, *names}
        if position < len(self._call.args):
            return self._call.args[position]
        for name in names:
            if name in self._call.kwargs:
                return self._call.kwargs[name]
        for name in names:
            if name in self.params:
                return self.params.get(name)
        return default

    def type(self, value: str) -> TensorType:
        """Return the type of a value or weight."""
        return self._graph.type(value)

    def shape(self, value: str) -> Shape:
        """Return the shape of a value or weight."""
        return self._graph.type(value).shape

    def rank(self, value: str) -> int:
        """Return the number of axes of a value."""
        return len(self.shape(value))

    def axis(self, axis: int, rank: int, what: str = "axis") -> int:
        """Resolve an axis that may count from the end.

        Raises:
            MalformedModel: there is no such axis.
        """
        if not -rank <= axis < rank:
            raise self.malformed(f"{what} {axis} is out of range for an input with {rank} axes")
        return axis % rank

    def layout(self, rank: int) -> Layout:
        """Return where the layer finds the channels of an input.

        Raises:
            MalformedModel: the input has not `rank` axes.
        """
        actual = self.rank(self.inputs(1)[0])
        if actual != rank:
            raise self.malformed(f"its input has {actual} axes, and needs {rank}")
        name = self.params.choice("data_format", ("channels_last", "channels_first"), "channels_last")
        return Layout(name)

    @property
    def operands(self) -> list[Operand]:
        """All values of the graph that the layer is called on, in whatever argument."""
        return list(dict.fromkeys(_operands([self._call.args, self._call.kwargs])))

    def padding(self, value: str) -> Operand | None:
        """Return the value that is true where `value` is padding; None where it carries no mask.

        Raises:
            Unsupported: it carries a mask that was made in a way that isn't followed.
        """
        stated = self._stated_mask(value)
        if stated is not None:
            if self._stated_padding is None:
                self._stated_padding = self.negated(stated)
            return self._stated_padding
        found = self._assembly.padding.get(value)
        if found is not None and found not in self._graph.values:
            raise self.unsupported(f"it needs the mask of {value}, which is {found}")
        return found

    def _stated_mask(self, value: str) -> Operand | None:
        """Return the mask that the call itself states for the first of its inputs, true where it is no padding."""
        mask = self._call.kwargs.get("mask")
        if not isinstance(mask, Operand) or value != next(_operands(self._call.args), None):
            return None
        self._arguments_read.add("mask")
        return mask

    def negated(self, x: str) -> Operand:
        """Turn truth values into their contraries."""
        return self.apply(Compare(CompareFunction.LESS), self.apply(Cast(DType.FLOAT32), x), self.constant(0.5))

    def mark_padding(self, value: str, padding: str) -> None:
        """Say that `value` carries a mask, and which value is true where it is padding."""
        self._assembly.padding[value] = Operand(padding)

    # --- weights ------------------------------------------------------------------------------------------------------

    def slot(
        self,
        role: str,
        shape: Shape,
        *,
        part: Sequence[str] = (),
        trained: bool = True,
        listed_again: bool = False,
        otherwise: Sequence[Form] = (),
        flipped: Sequence[int] = (),
    ) -> Slot:
        """Ask for a weight in the shape that Keras gives it; its numbers are known when all layers have asked.

        Weights are asked for in the order in which Keras' layer makes them, those that are trained first.

        Args:
            role: `kernel`, `bias`, `gamma`, ...
            shape: the usual shape.
            part: the attribute by which Keras' layer calls its part that has the weight, if it is one's.
            trained: whether Keras counts it among the trained weights.
            listed_again: whether it is the weight of a part, which Keras 3 stores with the layer once more.
            otherwise: other forms in which a file may hold it.
            flipped: the axes along which Theano, which convolves instead of correlating, has it the other way round.
        """
        place = self.place
        self._assembly.flips |= bool(flipped)
        whole = (*place.part, *part)
        key = (place.route, whole, role)
        if key not in self._assembly.slots:
            self._assembly.slots[key] = Slot(
                "/".join([place.owner, *(name for name in part if name != "cell"), role]),
                (*place.position, len(self._assembly.slots)),
                place.route,
                whole,
                role,
                (Form(shape), *otherwise),
                listed_again,
                trained and place.trained and self.params.get("trainable", True) is not False,
                tuple(flipped) if self.generation.is_theano else (),
            )
        return self._assembly.slots[key]

    def weight(
        self,
        role: str,
        shape: Shape,
        *,
        axes: Sequence[int] = (),
        view: Shape = (),
        part: Sequence[str] = (),
        otherwise: Sequence[Form] = (),
        flipped: Sequence[int] = (),
    ) -> str:
        """Add a weight to the graph as `layer/role`, and return its name.

        Args:
            role: `kernel`, `bias`, ...
            shape: the shape that Keras gives it.
            axes: the order of axes that the graph needs.
            view: another shape for the same elements, after that.
            part: as `slot` takes it.
            otherwise: as `slot` takes it.
            flipped: as `slot` takes it.
        """
        slot = self.slot(role, shape, part=part, otherwise=otherwise, flipped=flipped)
        result = view or tuple(shape[axis] for axis in axes or range(len(shape)))

        def compute() -> Array:
            array = slot.array()
            array = array.transpose(axes) if axes else array
            return array.astype(np.float32, copy=False).reshape(result)

        return self._assembly.put(slot.name, TensorType(result), compute)

    def derived(self, role: str, shape: Shape, compute: Callable[[], Array]) -> str:
        """Add a weight that is computed from slots in double precision, as float32 under `layer/role`."""
        return self._computed(f"{self.place.owner}/{role}", shape, compute)

    def part(self, weight: str, role: str, shape: Shape, compute: Callable[[Array], Array]) -> str:
        """Add a weight that is computed from another one, as float32 under `weight/role`."""
        return self._computed(f"{weight}/{role}", shape, lambda: compute(self._graph.weights[weight]))

    def _computed(self, name: str, shape: Shape, compute: Callable[[], Array]) -> str:
        return self._assembly.put(
            name, TensorType(shape), lambda: np.asarray(compute(), np.float64).astype(np.float32).reshape(shape)
        )

    def constant(self, value: Number, role: str = "constant") -> str:
        """Add numbers that the configuration states, as float32 under `layer/role`."""
        with np.errstate(over="ignore"):
            array = np.asarray(value, np.float32)
        if np.any(np.isinf(array) & np.isfinite(value)):
            raise self.malformed("it states numbers that are too large for float32")
        return self._graph.add_weight(self._graph.fresh(f"{self.name}/{role}"), array)

    def integers(self, value: int | Array, role: str = "constant") -> str:
        """Add whole numbers that the configuration states, as int32 under `layer/role`."""
        return self._graph.add_weight(self._graph.fresh(f"{self.name}/{role}"), np.asarray(value, np.int32))

    # --- what the layer computes --------------------------------------------------------------------------------------

    def apply(self, op: AnyOp, *inputs: str) -> Operand:
        """Add an operation with one result, and return it."""
        return self.apply_all(op, *inputs, results=1)[0]

    def apply_all(self, op: AnyOp, *inputs: str, results: int) -> tuple[Operand, ...]:
        """Add an operation with several results, and return them."""
        what = _spoken(op)
        names: list[str] = []
        for _ in range(results):
            count = self._counts.get(what, 0) + 1
            self._counts[what] = count
            names.append(self._graph.fresh(f"{self.name}@{what}" if count == 1 else f"{self.name}@{what}.{count}"))
        self._graph.add(op, inputs, names, self.origin)
        self._own.update(names)
        return tuple(map(Operand, names))

    def unary(self, function: UnaryFunction, x: str) -> Operand:
        """Apply a function to each element."""
        return self.apply(Unary(function), x)

    def binary(self, function: BinaryFunction, left: str | Number, right: str | Number) -> Operand:
        """Combine two values element by element; a number becomes a constant of the other one's type."""
        names = [side for side in (left, right) if isinstance(side, str)]
        dtype = self.type(names[0]).dtype if names else DType.FLOAT32
        operands = [side if isinstance(side, str) else self._number(dtype, side) for side in (left, right)]
        return self.apply(Binary(function), *operands)

    def number_like(self, x: str, value: Number) -> str:
        """Add numbers of the element type that a value has."""
        return self._number(self.type(x).dtype, value)

    def _number(self, dtype: DType, value: Number) -> str:
        if dtype.is_float:
            return self.constant(value)
        array = np.asarray(value)
        if np.any(array != np.round(array)):
            raise self.unsupported(f"it computes with whole numbers and {value}")
        return self._graph.add_weight(self._graph.fresh(f"{self.name}/constant"), array.astype(dtype.value))

    def add(self, left: str | Number, right: str | Number) -> Operand:
        """Add element by element."""
        return self.binary(BinaryFunction.ADD, left, right)

    def sub(self, left: str | Number, right: str | Number) -> Operand:
        """Subtract element by element."""
        return self.binary(BinaryFunction.SUB, left, right)

    def mul(self, left: str | Number, right: str | Number) -> Operand:
        """Multiply element by element."""
        return self.binary(BinaryFunction.MUL, left, right)

    def div(self, left: str | Number, right: str | Number) -> Operand:
        """Divide element by element."""
        return self.binary(BinaryFunction.DIV, left, right)

    def reshape(self, x: str, *shape: int) -> Operand:
        """Give the same elements another shape; 0 copies a dimension and -1 is inferred."""
        return self.apply(Reshape(tuple(shape)), x)

    def transpose(self, x: str, *axes: int) -> Operand:
        """Reorder the axes."""
        return self.apply(Transpose(tuple(axes)), x)

    def real(self, x: str) -> Operand:
        """Turn integers into real numbers; those stay as they are."""
        return Operand(x) if self.type(x).dtype.is_float else self.apply(Cast(DType.FLOAT32), x)

    def identity(self, x: str) -> Operand:
        """Give a value on as it is."""
        return self.apply(Identity(), x)

    # --- layers within the layer --------------------------------------------------------------------------------------

    def child(
        self, layer: Layer, part: Sequence[str], inputs: Sequence[Any], kwargs: Mapping[str, Any] | None = None
    ) -> LayerBuilder:
        """Return the builder of a layer that this one wraps.

        Args:
            layer: the layer, as `parse_layer` gives it.
            part: the attribute by which Keras' wrapper calls it.
            inputs: what it is called on.
            kwargs: further arguments of the call.
        """
        place = self.place
        is_alone = tuple(part) in (("layer",), ("cell",), ("activation",))
        inside = replace(
            place,
            name=f"{self.name}@{'/'.join(part)}",
            owner=place.owner if is_alone else f"{place.owner}/{'/'.join(part)}",
            part=(*place.part, *part),
        )
        call = Call((list(inputs) if len(inputs) > 1 else inputs[0],), kwargs or {})
        return LayerBuilder(layer, call, inside, self._assembly)

    def run(self, layer: Layer, part: Sequence[str], inputs: Sequence[Any]) -> list[Operand]:
        """Add a layer that this one wraps, called on some values, and return its results."""
        child = self.child(layer, part, inputs)
        results = self._assembly.run(child, layer, inputs)
        self.take_over(child)
        return results

    def take_over(self, child: LayerBuilder) -> None:
        """Count the values that a wrapped layer gave as this layer's own, so that one can get its name."""
        self._own |= child._own

    def slots_of(self, *part: str) -> list[Slot]:
        """Return what a part of this layer has asked for."""
        whole = (*self.place.part, *part)
        slots = self._assembly.slots.items()
        return [slot for (route, inside, _), slot in slots if (route, inside) == (self.place.route, whole)]

    @property
    def expression(self) -> Expression | None:
        """What the user gave to stand for this layer's code, if anything."""
        names = (self.name, self.place.owner, self.place.route[-1])
        return next((self._assembly.expressions[name] for name in names if name in self._assembly.expressions), None)

    # --- what a user should know --------------------------------------------------------------------------------------

    def malformed(self, reason: str) -> MalformedModel:
        """Make the error that says that the file contradicts itself in this layer; to be raised."""
        return MalformedModel(reason, where=self.origin.where)

    def unsupported(self, reason: str) -> Unsupported:
        """Make the error that says that this layer can't be carried, and why; to be raised."""
        return Unsupported("can't read this net", [Offence(self.origin.where, reason)])

    def trap(self, message: str) -> None:
        """Tell of a place where others go wrong, and what holds here; `inspect --explain` lists these."""
        self._assembly.traps.append(Trap(self.origin, message))

    def note(self, message: str) -> None:
        """Record an approximation or an assumption that an artifact's document has to mention."""
        self._graph.notes.append(f"{self.origin.where}: {message}")

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self, results: Result, *, named: bool = True) -> list[Operand]:
        """Check that nothing was forgotten, and give the results the layer's name.

        Raises:
            Unsupported: entries of the configuration or arguments of the call that nobody read.
        """
        offences = [
            Offence(self.origin.where, f"can't honour {name} = {value}") for name, value in self.params.unread()
        ]
        offences += [Offence(self.origin.where, reason) for reason in self._unread_arguments()]
        if offences:
            raise Unsupported("can't read this net", offences)
        given = [results] if isinstance(results, str) else list(results)
        if not named:
            return list(map(Operand, given))
        operands: list[Operand] = []
        named_as: dict[str, Operand] = {}
        for index, value in enumerate(given):
            name = self.name if index == 0 else f"{self.name}@{index}"
            operands.append(self._name(named_as.get(value, value), name))  # two results may be one value
            named_as[value] = operands[-1]
        return operands

    def _unread_arguments(self) -> Iterator[str]:
        for index, argument in enumerate(self._call.args):
            if index not in self._arguments_read and argument is not None:
                yield f"can't honour argument {index} of the call"
        for name, argument in self._call.kwargs.items():
            asked = argument is not None and argument is not False and name not in self._arguments_read
            if not asked or name == "name":
                continue
            if name == "training":
                yield "it is called as if in training, which computes at random or from the batch"
            elif name != "mask" or any(_operands([argument])):
                yield f"can't honour the argument {name!r} of the call"

    def _name(self, value: str, name: str) -> Operand:
        """Let the operation behind a value give it the layer's name; a value of another layer gets a second one."""
        graph, name = self._graph, self._graph.fresh(name)
        if value not in self._own:
            return Operand(graph.add(Identity(), [value], name, self.origin))
        for index in range(self._first_node, len(graph.nodes)):
            node = graph.nodes[index]
            if value in node.inputs or value in node.outputs:
                inputs = tuple(name if each == value else each for each in node.inputs)
                outputs = tuple(name if each == value else each for each in node.outputs)
                graph.nodes[index] = Node(node.op, inputs, outputs, node.origin)
        old = graph.values.pop(value)
        graph.values[name] = Value(name, old.type, old.storage)
        self._own.discard(value)
        padding = self._assembly.padding
        if value in padding:
            padding[name] = padding.pop(value)
        return Operand(name)


def _operands(values: Any) -> Iterator[Operand]:
    """Yield the values of the graph in nested arguments."""
    if isinstance(values, Operand):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _operands(value)
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _operands(value)


def _spoken(op: AnyOp) -> str:
    """Name an operation for the values inside a layer: `conv`, `mul`, `sigmoid`."""
    if isinstance(op, Unary | Binary):
        return str(op.function.value)
    return type(op).__name__.lower()

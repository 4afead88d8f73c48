"""Collect the tensors, operators and constants of a TFLite model, in the terms of its own schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from demitasse.ir.ops import DType, Shape, TensorType
from demitasse.ir.weights import Array
from demitasse.writers.tflite.flatbuffer import Constant, write_flatbuffer

__all__ = ["TENSOR_TYPES", "ModelBuilder", "Operator", "Tensor"]

SIGNATURE = "serving_default"
SCHEMA_VERSION = 3

# The values of `TensorType` in schema.fbs.
TENSOR_TYPES = {DType.FLOAT32: 0, DType.INT32: 2, DType.UINT8: 3, DType.INT64: 4, DType.BOOL: 6}
FLOAT16, INT8 = 1, 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the model; `batched` holds the axes that grow with the batch."""

    index: int
    name: str
    type: TensorType
    batched: frozenset[int] = frozenset()

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def rank(self) -> int:
        return self.type.rank

    @property
    def signature(self) -> Shape:
        """The shape with -1 for each axis that grows with the batch."""
        return tuple(-1 if axis in self.batched else dim for axis, dim in enumerate(self.shape))


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator and its options table, by their names in schema.fbs: `CONV_2D`, `Conv2DOptions`."""

    code: str
    version: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: str | None
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Stored:
    """How a tensor is stored where that isn't its own type: by scales along an axis where there are any."""

    type: int
    scales: Array | None = None
    axis: int = 0


class ModelBuilder:
    """Builds one subgraph; operators run in the order in which they are added."""

    def __init__(self, *, half: bool = False) -> None:
        self.half = half
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self._constants: list[Constant | None] = [None]  # buffer 0 stands for "no content"
        self._buffers: dict[int, int] = {}
        self._stored: dict[int, _Stored] = {}
        self._names: dict[str, int] = {}
        self._reserved: set[str] = set()
        self._small: dict[tuple[str, Shape, bytes], Tensor] = {}
        self._metadata: dict[str, int] = {}

    # --- tensors ----------------------------------------------------------------------------------------------

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names for the tensors that will be declared by `reserved`; no other tensor gets one of them."""
        self._reserved.update(names)

    def reserved(self, name: str, type: TensorType, batched: frozenset[int]) -> Tensor:
        """Add the tensor that a name was reserved for."""
        self._reserved.remove(name)
        return self.tensor(name, type, batched)

    def tensor(self, name: str, type: TensorType, batched: frozenset[int] = frozenset()) -> Tensor:
        """Add a tensor; a name that is taken gets a number appended."""
        result = Tensor(len(self.tensors), self._unique(name), type, batched)
        self.tensors.append(result)
        return result

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0) + 1
        self._names[name] = count
        return name if count == 1 and name not in self._reserved else self._unique(f"{name}.{count + 1}")

    def constant(self, name: str, type: TensorType, fetch: Callable[[], Array]) -> Tensor:
        """Add a tensor whose content is asked for when the file is written."""
        result = self.tensor(name, type)
        self._constants.append(Constant(type.size * np.dtype(type.dtype.value).itemsize, fetch))
        self._buffers[result.index] = len(self._constants) - 1
        return result

    def half_constant(self, name: str, type: TensorType, array: Array) -> Tensor:
        """Add a constant in half precision, which only a `DEQUANTIZE` operator may read."""
        result = self.constant(name, type, lambda: array)
        self._store(result, array, _Stored(FLOAT16))
        return result

    def small(self, name: str, array: Array) -> Tensor:
        """Add a constant that is at hand, once for all that ask for the same content."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._small:
            declared = TensorType(array.shape, DType(array.dtype.name))
            self._small[key] = self.constant(name, declared, lambda: array)
        return self._small[key]

    def is_constant(self, tensor: Tensor) -> bool:
        return tensor.index in self._buffers

    def content(self, tensor: Tensor) -> Array:
        """Fetch what a constant holds."""
        constant = self._constants[self._buffers[tensor.index]]
        if constant is None:
            raise KeyError(f"tensor {tensor.name!r} holds nothing")
        return constant.fetch()

    def store_integers(self, tensor: Tensor, integers: Array, scales: Array, axis: int) -> None:
        """Let a constant be stored as 8-bit integers, `scales` along an axis giving their worth."""
        self._store(tensor, integers, _Stored(INT8, scales, axis))

    def _store(self, tensor: Tensor, array: Array, stored: _Stored) -> None:
        self._constants[self._buffers[tensor.index]] = Constant(array.nbytes, lambda: array)
        self._stored[tensor.index] = stored

    # --- operators --------------------------------------------------------------------------------------------

    def operator(
        self,
        code: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        version: int = 1,
        options: str | None = None,
        **fields: Any,
    ) -> None:
        """Append an operator; `fields` are those of its options table."""
        self.operators.append(Operator(code, version, tuple(inputs), tuple(outputs), options, fields))

    def metadata(self, name: str, content: bytes) -> None:
        """Add a named buffer that no tensor reads."""
        array = np.frombuffer(content, np.uint8)
        self._constants.append(Constant(len(content), lambda: array))
        self._metadata[name] = len(self._constants) - 1

    # --- the file ---------------------------------------------------------------------------------------------

    def write(
        self, file: BinaryIO, *, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], description: str
    ) -> None:
        """Write the model; `inputs` and `outputs` give the names in its signature."""
        from ai_edge_litert import schema_py_generated as schema

        tables = _Tables(schema)
        codes: dict[tuple[str, int], int] = {}
        operators = [
            tables.operator(each, codes.setdefault((each.code, each.version), len(codes))) for each in self.operators
        ]
        graph = tables.table(
            "SubGraph",
            name="main",
            tensors=[self._tensor(tables, each) for each in self.tensors],
            operators=operators,
            inputs=[tensor.index for tensor in inputs.values()],
            outputs=[tensor.index for tensor in outputs.values()],
        )
        signature = tables.table(
            "SignatureDef",
            signatureKey=SIGNATURE,
            subgraphIndex=0,
            inputs=[tables.table("TensorMap", name=name, tensorIndex=each.index) for name, each in inputs.items()],
            outputs=[tables.table("TensorMap", name=name, tensorIndex=each.index) for name, each in outputs.items()],
        )
        model = tables.table(
            "Model",
            version=SCHEMA_VERSION,
            description=description,
            operatorCodes=[tables.code(code, version) for code, version in codes],
            subgraphs=[graph],
            signatureDefs=[signature],
            metadata=[tables.table("Metadata", name=name, buffer=place) for name, place in self._metadata.items()],
        )
        write_flatbuffer(schema, model, self._constants, file)

    def _tensor(self, tables: _Tables, tensor: Tensor) -> Any:
        stored = self._stored.get(tensor.index, _Stored(TENSOR_TYPES[tensor.type.dtype]))
        entry = tables.table(
            "Tensor",
            name=tensor.name,
            shape=list(tensor.shape),
            shapeSignature=list(tensor.signature) if tensor.batched else None,
            type=stored.type,
            buffer=self._buffers.get(tensor.index, 0),
            hasRank=True,
        )
        if stored.scales is not None:
            zeros = np.zeros(stored.scales.size, np.int64)
            scales = stored.scales.astype(np.float32)
            entry.quantization = tables.table(
                "QuantizationParameters", scale=scales, zeroPoint=zeros, quantizedDimension=stored.axis
            )
        return entry


class _Tables:
    """Makes tables of the schema from names and fields."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema

    def table(self, kind: str, **fields: Any) -> Any:
        table = getattr(self.schema, f"{kind}T")()
        for name, value in fields.items():
            if not hasattr(table, name):
                raise AttributeError(f"{kind} has no field {name!r}")
            setattr(table, name, value)
        return table

    def code(self, code: str, version: int) -> Any:
        """Make an operator code; codes that 8 bits don't hold are spelled in a second field."""
        number = getattr(self.schema.BuiltinOperator, code)
        placeholder = self.schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
        return self.table(
            "OperatorCode", builtinCode=number, deprecatedBuiltinCode=min(number, placeholder), version=version
        )

    def operator(self, operator: Operator, place: int) -> Any:
        entry = self.table(
            "Operator",
            opcodeIndex=place,
            inputs=[tensor.index for tensor in operator.inputs],
            outputs=[tensor.index for tensor in operator.outputs],
        )
        if operator.options is not None:
            entry.builtinOptionsType = getattr(self.schema.BuiltinOptions, operator.options)
            entry.builtinOptions = self.table(operator.options, **operator.fields)
        return entry

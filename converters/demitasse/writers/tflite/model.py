"""Collect the tensors, operators and constants of a TFLite model, in the terms of its own schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from demitasse.ir.ops import DType, Shape, TensorType
from demitasse.ir.weights import Array
from demitasse.writers.tflite.flatbuffer import Constant, write_flatbuffer

__all__ = ["ModelBuilder", "Tensor"]

SIGNATURE = "serving_default"
SCHEMA_VERSION = 3

# The names of `TensorType` in schema.fbs.
TENSOR_TYPES = {
    DType.FLOAT32: "FLOAT32",
    DType.INT32: "INT32",
    DType.INT64: "INT64",
    DType.UINT8: "UINT8",
    DType.BOOL: "BOOL",
}


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


class ModelBuilder:
    """Builds one subgraph; operators run in the order in which they are added.

    Operators, their options and enumerations are given by their names in schema.fbs: `"CONV_2D"`, `"Conv2DOptions"`.
    """

    def __init__(self, *, half: bool = False) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.half = half
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._computed: list[Tensor] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._constants: list[Constant | None] = [None]  # buffer 0 stands for "no content"
        self._names: dict[str, int] = {}
        self._reserved: set[str] = set()
        self._small: dict[tuple[str, Shape, bytes], Tensor] = {}
        self._metadata: list[Any] = []

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names for the tensors that will be declared by `reserved`; no other tensor gets one of them."""
        self._reserved.update(names)

    def reserved(self, name: str, type: TensorType, batched: frozenset[int]) -> Tensor:
        """Add the tensor that a name was reserved for."""
        self._reserved.remove(name)
        return self.tensor(name, type, batched)

    def tensor(self, name: str, type: TensorType, batched: frozenset[int] = frozenset(), *, buffer: int = 0) -> Tensor:
        """Add a tensor; a name that is taken gets a number appended."""
        result = Tensor(len(self._tensors), self._unique(name), type, batched)
        entry = self.schema.TensorT()
        entry.name = result.name
        entry.shape = list(type.shape)
        entry.shapeSignature = list(result.signature) if batched else None
        entry.type = getattr(self.schema.TensorType, TENSOR_TYPES[type.dtype])
        entry.buffer = buffer
        entry.hasRank = True
        self._tensors.append(entry)
        return result

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0) + 1
        self._names[name] = count
        return name if count == 1 and name not in self._reserved else self._unique(f"{name}.{count + 1}")

    def constant(self, name: str, type: TensorType, fetch: Callable[[], Array]) -> Tensor:
        """Add a tensor whose content is asked for when the file is written."""
        size = type.size * np.dtype(type.dtype.value).itemsize
        self._constants.append(Constant(size, fetch))
        return self.tensor(name, type, buffer=len(self._constants) - 1)

    def half_constant(self, name: str, type: TensorType, array: Array) -> Tensor:
        """Add a constant in half precision, which only a `DEQUANTIZE` operator may read."""
        self._constants.append(Constant(array.nbytes, lambda: array))
        result = self.tensor(name, type, buffer=len(self._constants) - 1)
        self._tensors[-1].type = self.schema.TensorType.FLOAT16
        return result

    def small(self, name: str, array: Array) -> Tensor:
        """Add a constant that is at hand, once for all that ask for the same content."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._small:
            declared = TensorType(array.shape, DType(array.dtype.name))
            self._small[key] = self.constant(name, declared, lambda: array)
        return self._small[key]

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
        entry = self.schema.OperatorT()
        entry.opcodeIndex = self._codes.setdefault((code, version), len(self._codes))
        entry.inputs = [tensor.index for tensor in inputs]
        entry.outputs = [tensor.index for tensor in outputs]
        if options is not None:
            entry.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            entry.builtinOptions = self._table(options, fields)
        self._operators.append(entry)
        self._computed += outputs

    def _table(self, kind: str, fields: Mapping[str, Any]) -> Any:
        table = getattr(self.schema, f"{kind}T")()
        for name, value in fields.items():
            if not hasattr(table, name):
                raise AttributeError(f"{kind} has no field {name!r}")
            setattr(table, name, value)
        return table

    def computed(self) -> list[Tensor]:
        """Return the tensors that operators compute, in order."""
        return self._computed

    def metadata(self, name: str, content: bytes) -> None:
        """Add a named buffer that no tensor reads."""
        array = np.frombuffer(content, np.uint8)
        self._constants.append(Constant(len(content), lambda: array))
        self._metadata.append(self._table("Metadata", {"name": name, "buffer": len(self._constants) - 1}))

    def write(
        self, file: BinaryIO, *, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], description: str
    ) -> None:
        """Write the model; `inputs` and `outputs` give the names in its signature."""
        model = self.schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = description
        model.operatorCodes = [self._code(code, version) for code, version in self._codes]
        model.subgraphs = [self._subgraph(list(inputs.values()), list(outputs.values()))]
        model.signatureDefs = [
            self._table(
                "SignatureDef",
                {
                    "signatureKey": SIGNATURE,
                    "subgraphIndex": 0,
                    "inputs": self._ports(inputs),
                    "outputs": self._ports(outputs),
                },
            )
        ]
        model.metadata = self._metadata
        write_flatbuffer(self.schema, model, self._constants, file)

    def _code(self, code: str, version: int) -> Any:
        number = getattr(self.schema.BuiltinOperator, code)
        placeholder = self.schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
        fields = {"builtinCode": number, "deprecatedBuiltinCode": min(number, placeholder), "version": version}
        return self._table("OperatorCode", fields)

    def _subgraph(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Any:
        fields = {
            "name": "main",
            "tensors": self._tensors,
            "operators": self._operators,
            "inputs": [tensor.index for tensor in inputs],
            "outputs": [tensor.index for tensor in outputs],
        }
        return self._table("SubGraph", fields)

    def _ports(self, tensors: Mapping[str, Tensor]) -> list[Any]:
        return [
            self._table("TensorMap", {"name": name, "tensorIndex": tensor.index}) for name, tensor in tensors.items()
        ]

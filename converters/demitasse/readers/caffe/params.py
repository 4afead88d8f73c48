"""Read a layer's parameters with the schema's types and defaults, and remember which of them were read.

A parameter that no reader looked at is an error, not a detail: it is the difference between a layer that
can't be carried and one that is carried wrong. `Params` therefore notes each field that is asked for, and
`unread` lists the rest, less those that can't change what a layer computes at inference (`INERT`, with the
reason of each).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.readers.caffe.message import Message, Unknown, Value, Word, shown
from demitasse.readers.caffe.schema import FieldSpec, Kind, MessageSpec, message_spec

__all__ = ["INERT", "Params", "Unread"]


class Unread(NamedTuple):
    """A parameter that the file sets and nobody looked at: `convolution_param.axis`, its value, and where it stands."""

    path: str
    value: str
    where: str


@dataclass(frozen=True, eq=False)
class Params:
    """Views one parameter block; every accessor notes that its field was read.

    The accessors take a field's name as caffe.proto spells it, and return what the file says, or `default`
    where one is given, or caffe.proto's own default. They raise `MalformedModel`, with file and line, if the
    value isn't of the asked kind, or if the file is silent and no default is known. Fields that the schema
    doesn't know (forks) are read in the same way. `x in params` tells whether the file sets a field, without
    counting as reading it.
    """

    message: Message
    spec: MessageSpec | None
    path: tuple[str, ...]
    reads: set[tuple[str, ...]]
    owner: str

    def __contains__(self, name: str) -> bool:
        return name in self.message

    def where(self, name: str | None = None) -> str:
        """Spell the place of a field (or of the block) for an error message, and the layer it belongs to."""
        return f"{self.message.where(name)}, {self.owner}" if self.owner else self.message.where(name)

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a whole number, for example `integer("num_output")`."""
        return int(self._one(name, Kind.INT64, default))

    def number(self, name: str, default: float | None = None) -> float:
        """Return a real number as float32 holds it, as Caffe does; for example `number("negative_slope")`."""
        return _single(self._one(name, Kind.FLOAT, default))

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return a truth value, for example `flag("bias_term")`."""
        return bool(self._one(name, Kind.BOOL, default))

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string, for example `text("module")`."""
        return str(self._one(name, Kind.STRING, default))

    def enum(self, name: str, default: str | None = None) -> str:
        """Return an enum value's name, for example `enum("pool") == "MAX"`; a fork's own word is passed on as it is."""
        return str(self._one(name, Kind.ENUM, default))

    def integers(self, name: str) -> tuple[int, ...]:
        """Return every value of a repeated whole number, for example `integers("kernel_size")`; () if there is none."""
        return tuple(int(value) for value in self._many(name, Kind.INT64))

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return every value of a repeated real number, for example `numbers("coeff")`; () if there is none."""
        return tuple(float(value) for value in self._many(name, Kind.FLOAT))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return every value of a repeated string; () if there is none."""
        return tuple(str(value) for value in self._many(name, Kind.STRING))

    def block(self, name: str) -> Params:
        """View a nested block; an empty one, full of defaults, where the file has none. Counts as reading nothing."""
        found = self.message.merged(name)
        self._refuse_scalars(name)
        return self._nested(name, found or Message(self.message.source, self.message.position))

    def blocks(self, name: str) -> tuple[Params, ...]:
        """View every occurrence of a repeated block, for example `blocks("shape")`; () if there is none."""
        self._refuse_scalars(name)
        return tuple(self._nested(name, found) for found in self.message.messages(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field by whatever kind the schema or the file gives it; for forks' fields. `default` if absent."""
        found = self.all(name)
        if found:
            return found[-1]
        spec = self._spec_of(name)
        return default if default is not None or spec is None else spec.default

    def all(self, name: str) -> tuple[Any, ...]:
        """Return every occurrence of a field by whatever kind the schema or the file gives it; () if there is none.

        Nested blocks come as `Params`.
        """
        spec = self._spec_of(name)
        if self.message.messages(name) or (spec is not None and spec.kind is Kind.MESSAGE):
            return self.blocks(name)
        return self._many(name, spec.kind if spec else None)

    def ignore(self, *names: str) -> None:
        """Note fields, nested blocks included, as looked at: they don't matter for what the layer computes here."""
        for name in names:
            self._note(name)
            for message in self.message.messages(name):
                self._nested(name, message).ignore(*message.fields)

    def unread(self) -> list[Unread]:
        """List what the file sets in this block, nobody read, and could matter."""
        missed: list[Unread] = []
        for name, group in self.message.fields.items():
            path = (*self.path, name)
            if inert_reason(path) is not None:
                continue
            for entry in group:
                if isinstance(entry.value, Message):
                    missed += self._nested(name, entry.value).unread()
                elif path not in self.reads:
                    where = self.message.source.at(entry.position)
                    missed.append(Unread(".".join(path), shown(entry.value), where))
        return missed

    def _nested(self, name: str, message: Message) -> Params:
        spec = self._spec_of(name)
        inner = message_spec(spec.message) if spec is not None and spec.message else None
        return Params(message, inner, (*self.path, name), self.reads, self.owner)

    def _spec_of(self, name: str) -> FieldSpec | None:
        return self.spec.by_name.get(name) if self.spec is not None else None

    def _note(self, name: str) -> None:
        self.reads.add((*self.path, name))

    def _one(self, name: str, kind: Kind, default: object) -> Any:
        values = self._many(name, kind)
        if values:
            return values[-1]
        if default is not None:
            return default
        spec = self._spec_of(name)
        if spec is None or spec.default is None:
            block = f" in {'.'.join(self.path)}" if self.path else ""
            raise MalformedModel(f"{name} is missing{block}, and has no default", where=self.where())
        return spec.default

    def _many(self, name: str, kind: Kind | None) -> tuple[Any, ...]:
        self._note(name)
        spec = self._spec_of(name)
        found: list[Any] = []
        for entry in self.message.all(name):
            try:
                found.append(coerced(entry.value, kind, spec))
            except ValueError as error:
                self._refuse(name, entry.value, str(error), entry.position)
        return tuple(found)

    def _refuse_scalars(self, name: str) -> None:
        for entry in self.message.all(name):
            if not isinstance(entry.value, Message):
                self._refuse(name, entry.value, "a block in braces", entry.position)

    def _refuse(self, name: str, value: Value, wanted: str, position: int) -> NoReturn:
        where = self.message.source.at(position)
        raise MalformedModel(
            f"{'.'.join((*self.path, name))} wants {wanted}, but is {shown(value)}",
            where=f"{where}, {self.owner}" if self.owner else where,
        )


_TRUE = frozenset(("true", "True", "t"))
_FALSE = frozenset(("false", "False", "f"))
_RANGES = {
    Kind.INT32: (-(2**31), 2**31 - 1),
    Kind.INT64: (-(2**63), 2**63 - 1),
    Kind.UINT32: (0, 2**32 - 1),
    Kind.UINT64: (0, 2**64 - 1),
}


def coerced(value: Value, kind: Kind | None, spec: FieldSpec | None = None) -> Any:
    """Turn a value as written into one of the asked kind, as protobuf's text format would.

    Raises:
        ValueError: with what was wanted ("a whole number from 0 to 4294967295").
    """
    if isinstance(value, Message | Unknown):
        if kind is None:
            return value
        raise ValueError(kind.value)
    if kind is None:
        return str(value) if isinstance(value, Word) else value
    if kind in _RANGES:
        return _whole(value, spec.kind if spec is not None and spec.kind in _RANGES else kind)
    if kind is Kind.FLOAT:
        return _single(_real(value))
    if kind is Kind.DOUBLE:
        return _real(value)
    if kind is Kind.BOOL:
        return _truth(value)
    if kind is Kind.ENUM:
        return _choice(value, spec)
    if isinstance(value, str) and not isinstance(value, Word):
        return value
    raise ValueError(kind.value)


def _whole(value: Value, kind: Kind) -> int:
    low, high = _RANGES[kind]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"a whole number from {low} to {high}")
    return value


def _real(value: Value) -> float:
    if isinstance(value, Word) and value.lower() in ("inf", "infinity", "nan"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _single(value: float) -> float:
    """Round to float32, which is what a Caffe parameter is; what exceeds it is infinite."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _truth(value: Value) -> bool:
    if isinstance(value, Word) and value in _TRUE | _FALSE:
        return value in _TRUE
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ValueError("true or false")


def _choice(value: Value, spec: FieldSpec | None) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        names = spec.enum if spec is not None and spec.enum is not None else {}
        return next((name for name, number in names.items() if number == value), str(value))
    raise ValueError("one of " + ", ".join(spec.enum) if spec is not None and spec.enum else "a bare word")


def inert_reason(path: tuple[str, ...]) -> str | None:
    """Return why a field can't change what its layer computes at inference; None if it could."""
    return INERT.get(path[-1]) or INERT.get(".".join(path)) or (INERT.get(f"{path[0]}.*") if len(path) > 1 else None)


_FILLER = "fills a blob before training; trained weights replace it"
_TRAINING = "steers training only"
_HOW = "chooses how a result is computed, not which"
_DATA = "says where training data comes from; the layer becomes an input of the net"

INERT: dict[str, str] = {
    "weight_filler": _FILLER,
    "bias_filler": _FILLER,
    "filler": _FILLER,
    "scale_filler": _FILLER,
    "shift_filler": _FILLER,
    "slope_filler": _FILLER,
    "engine": _HOW,
    "convolution_param.force_nd_im2col": _HOW,
    "eltwise_param.stable_prod_grad": _HOW,
    "recurrent_param.debug_info": "prints",
    "batch_norm_param.moving_average_fraction": _TRAINING,
    "bn_param.momentum": _TRAINING,
    "bn_param.frozen": _TRAINING,
    "python_param.share_in_parallel": _TRAINING,
    "loss_param.*": _TRAINING,
    "data_param.*": _DATA,
    "hdf5_data_param.*": _DATA,
    "hdf5_output_param.*": "writes a file",
}
"""Fields that can't change what a layer computes at inference, by name, by path, or by block (`block.*`); and why."""

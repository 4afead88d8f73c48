"""Read a layer's configuration with checked types, and remember which entries were read.

An entry that no reader looked at is an error, not a detail: it is the difference between a layer that can't be carried
and one that is carried wrong. Left out are entries that can't change what a layer computes at inference (`INERT`), and
those that are null, false or empty, as Keras spells "not asked for".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from demitasse.errors import MalformedModel

__all__ = ["INERT", "Params"]

INERT: Mapping[str, str] = {
    **dict.fromkeys(["name", "trainable", "dtype", "build_config"], "said elsewhere"),
    **dict.fromkeys(
        ["batch_input_shape", "input_shape", "input_dim", "input_length", "input_dtype"], "the net's inputs"
    ),
    **dict.fromkeys(["batch_size", "autocast", "sparse", "ragged", "optional"], "how tensors are held"),
    **dict.fromkeys(["init", "inner_init", "forget_bias_init", "weights"], "values before training"),
    **dict.fromkeys(["unit_forget_bias", "init_values"], "values before training"),
    **dict.fromkeys(["activity_regularizer", "lora_rank", "lora_alpha"], "training"),
    **dict.fromkeys(["momentum", "renorm", "renorm_clipping", "renorm_momentum", "fused", "synchronized"], "training"),
    **dict.fromkeys(["dropout", "recurrent_dropout", "dropout_W", "dropout_U", "seed", "noise_shape"], "training"),
    **dict.fromkeys(["rate", "stddev", "p"], "training"),
    **dict.fromkeys(["implementation", "unroll", "use_cudnn", "flash_attention", "bias_format"], "how it is computed"),
}
"""Entries that can't change what any layer computes at inference, and why."""

_INERT_ENDINGS = ("_initializer", "_regularizer", "_constraint")
"""Training again: `kernel_initializer` and the like, as well as Keras 1's `W_regularizer` and `b_constraint`."""


class Params:
    """Views a layer's configuration; every accessor notes that its entry was read.

    The accessors return what the file says, or `default` where it is silent or null and a default is given. They raise
    `MalformedModel`, naming the layer, if the value is of another kind, or if there is none and no default. `in` tells
    whether the file sets an entry, without counting as reading it.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config = config
        self._where = where
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._config.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry as the JSON has it."""
        self._read.add(name)
        value = self._config.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a whole number."""
        value = self._needed(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, value, "a whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a finite number; old versions wrap some in an object with a `value`."""
        value = self._needed(name, default)
        if isinstance(value, Mapping):
            value = value.get("value")
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self._wrong(name, value, "a number")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return a truth value."""
        value = self._needed(name, default)
        if value not in (True, False):
            raise self._wrong(name, value, "true or false")
        return bool(value)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._needed(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """Return a string that is one of some."""
        value = self.text(name, default)
        if value not in choices:
            raise self._wrong(name, value, " or ".join(map(repr, choices)))
        return value

    def sizes(self, name: str, count: int, default: int | None = None) -> tuple[int, ...]:
        """Return `count` whole numbers above 0; a single one counts for all."""
        values = self.integers(name, None if default is None else (default,))
        values = values * count if len(values) == 1 else values
        if len(values) != count or min(values) < 1:
            raise self._wrong(name, self._config.get(name), f"{count} whole number(s) above 0")
        return values

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return whole numbers; a single one gives one."""
        value = self._needed(name, default)
        values = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in values):
            raise self._wrong(name, value, "whole numbers")
        return tuple(values)

    def numbers(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Return finite numbers, of nested lists one after the other; a single one gives one."""
        values = tuple(_flat(self._needed(name, default)))
        if not all(isinstance(entry, int | float) and math.isfinite(entry) for entry in values):
            raise self._wrong(name, self._config.get(name), "numbers")
        return tuple(map(float, values))

    def ignore(self, *names: str) -> None:
        """Note entries as looked at: they don't matter for what the layer computes here."""
        self._read.update(names)

    def unread(self) -> list[tuple[str, str]]:
        """List the entries that nobody read and that could matter, with their values."""
        return [
            (name, _shown(value))
            for name, value in self._config.items()
            if name not in self._read and name not in INERT and not name.endswith(_INERT_ENDINGS) and value
        ]

    def _needed(self, name: str, default: Any) -> Any:
        value = self.get(name, default)
        if value is None:
            raise MalformedModel(f"its configuration has no {name!r}", where=self._where)
        return value

    def _wrong(self, name: str, value: object, expected: str) -> MalformedModel:
        return MalformedModel(f"{name!r} is {_shown(value)}, and must be {expected}", where=self._where)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _flat(entry)
    else:
        yield value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

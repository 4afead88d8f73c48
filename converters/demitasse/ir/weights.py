"""The weight map: named arrays, apart from the graph that uses them.

A weight is either an array (often a view into the mapped model file) or deferred: a type and a function that computes
the array when a writer asks for it. A pass that scales every kernel of a 240 MB net thus holds no second copy of it:
the writer streams one tensor at a time.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.ops import DType, TensorType

__all__ = ["Array", "WeightMap"]

Array: TypeAlias = npt.NDArray[Any]

# By numpy's types: it spells their names out anew each time that one is asked for, which takes as long as all the rest.
_DTYPES = {np.dtype(dtype.value): dtype for dtype in DType}

# A compressed archive of weights shrinks a few times; one that shrank more than this was made to fill the memory.
MOST_GROWTH = 100


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A weight that is computed each time it is asked for."""

    type: TensorType
    compute: Callable[[], Array]


class WeightMap(Mapping[str, Array]):
    """Maps `layer/role` to an array, in the order in which the weights were added.

    Roles are `kernel`, `bias`, `mean`, `variance`, `gamma`, `beta`, `slope` and the like. Reading a deferred weight
    computes it anew each time; `type` never computes anything.
    """

    __slots__ = ("_entries",)

    def __init__(self, arrays: Mapping[str, Array] | None = None) -> None:
        self._entries: dict[str, Array | _Deferred] = {}
        for name, array in (arrays or {}).items():
            self.put(name, array)

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        return entry.compute() if isinstance(entry, _Deferred) else entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def type(self, name: str) -> TensorType:
        """Return a weight's type without computing it."""
        entry = self._entries[name]
        if isinstance(entry, _Deferred):
            return entry.type
        return TensorType(entry.shape, _DTYPES.get(entry.dtype) or DType(entry.dtype.name))

    @property
    def size(self) -> int:
        """The number of elements in all weights."""
        return sum(self.type(name).size for name in self)

    def put(self, name: str, array: Array) -> str:
        """Add an array under a name that is not taken, and return the name."""
        if name in self._entries:
            raise KeyError(f"weight {name!r} is already in the map")
        self._entries[name] = array
        return name

    def defer(self, name: str, type: TensorType, compute: Callable[[], Array]) -> str:
        """Add a weight that `compute` makes when it is asked for, and return its name."""
        if name in self._entries:
            raise KeyError(f"weight {name!r} is already in the map")
        self._entries[name] = _Deferred(type, compute)
        return name

    def copy_from(self, other: WeightMap, names: Iterable[str]) -> None:
        """Add some weights of another map, without computing or copying them; those already here stay."""
        for name in names:
            self._entries.setdefault(name, other._entries[name])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map as .safetensors or .npz, told by the suffix.

        Raises:
            UsageError: the suffix is neither.
        """
        path = Path(path)
        arrays = {name: np.asarray(self[name], order="C") for name in self}
        partial = path.with_name(f".{path.name}.partial")
        try:
            match path.suffix:
                case ".safetensors":
                    from safetensors.numpy import save_file

                    partial.touch()
                    mode = partial.stat().st_mode
                    save_file(arrays, partial)  # for its owner's eyes alone
                    partial.chmod(mode)
                case ".npz":
                    with partial.open("wb") as file:
                        np.savez(file, **arrays)  # type: ignore[arg-type]
                case suffix:
                    raise UsageError(f"can't save weights as {suffix!r}; use .safetensors or .npz")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WeightMap:
        """Read a map that `save` wrote.

        Raises:
            UsageError: the suffix is neither .safetensors nor .npz.
            MalformedModel: the file is not of its format, or holds an element type that weights don't have.
        """
        path = Path(path)
        try:
            match path.suffix:
                case ".safetensors":
                    arrays = _read_safetensors(path)
                case ".npz":
                    arrays = _read_npz(path)
                case suffix:
                    raise UsageError(f"can't load weights from {suffix!r}; use .safetensors or .npz")
        except (ValueError, OSError, EOFError, MemoryError) as error:
            raise MalformedModel(f"not a readable weight map: {error}", where=str(path)) from error
        known = {dtype.value for dtype in DType}
        wrong = [f"{name!r} is {array.dtype.name}" for name, array in arrays.items() if array.dtype.name not in known]
        if wrong:
            message = f"{', '.join(wrong)}; weights are one of {', '.join(sorted(known))}: save real numbers as float32"
            raise MalformedModel(message, where=str(path))
        return cls(arrays)


def _read_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: an element type that numpy doesn't have
        raise ValueError(str(error)) from error


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name; np.savez writes an archive of named ones")
            with archive, ZipFile(path) as entries:
                unpacked = sum(entry.file_size for entry in entries.infolist())
                if unpacked > MOST_GROWTH * path.stat().st_size:
                    raise ValueError(f"it would unpack to {unpacked} bytes, more than {MOST_GROWTH} times its size")
                return {name: archive[name] for name in archive.files}
    except (BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(str(error)) from error

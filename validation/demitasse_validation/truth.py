"""Holds what the source computes in one step, which everything else is measured by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Lock

from demitasse.ir.weights import Array
from demitasse_validation.metrics import Size

__all__ = ["Truth"]


class Truth(Mapping[str, Array]):
    """Blobs by name, and their sizes, each measured once for all that ask; any number of threads may."""

    def __init__(self, blobs: Mapping[str, Array]) -> None:
        self._blobs = blobs
        self._sizes: dict[str, Size] = {}
        self._locks = {name: Lock() for name in blobs}

    def __getitem__(self, name: str) -> Array:
        return self._blobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)

    def size(self, name: str) -> Size:
        """Say how large a blob is."""
        with self._locks[name]:
            if name not in self._sizes:
                self._sizes[name] = Size.of(self._blobs[name])
            return self._sizes[name]

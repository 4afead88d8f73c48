"""Reads from an artifact's document by what its channels were multiplied, and brings them back to the source's size.

The source is the reference for every tensor: what an artifact holds is divided by the recorded factors before it is
compared. Each layer alone is judged as it is stored, against the source's own weights with the same factors in them,
where a tensor has one step for all channels and a kernel is rounded to the 127ths of its equalized rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph, provenance
from demitasse.ir.weights import Array
from demitasse.quantize.equalize import equalize, factors_of
from demitasse.targets import TARGETS, simplify, written_out

__all__ = ["Equalization"]


@dataclass(frozen=True, slots=True)
class Equalization:
    """By what the blobs of a source are multiplied in an artifact: of their rank, in the source's order.

    `graph` computes the source with these factors in it.
    """

    graph: Graph
    factors: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, document: Document) -> Equalization:
        """Read what a document records; without a record nothing is multiplied.

        Raises:
            UsageError: no equalization of this source is what it records.
        """
        settings = document.options.get("int8")
        exponents = settings.get("equalized") if isinstance(settings, Mapping) else None
        if not exponents:
            return cls(graph)
        if not isinstance(exponents, Mapping) or not all(map(_are_whole, exponents.values())):
            raise UsageError("its document is damaged: 'equalized' maps names to lists of whole numbers")
        simple = written_out(simplify(graph), TARGETS.get(document.target))
        factors = factors_of(simple, exponents)
        held = {
            record.blob: record.storage.restore(factors[record.value])
            for record in provenance(simple)
            if record.storage is not None and record.value in factors
        }
        return cls(equalize(simple, exponents), held)

    def undone(self, blob: str, array: Array) -> Array:
        """Return a blob of the artifact as large as the source has it."""
        factor = self.factors.get(blob)
        if factor is None or array.ndim != factor.ndim:
            return array  # of another rank it is no such blob: its shape is reported
        try:
            return np.asarray(array / factor)
        except ValueError:
            return array

    def applied(self, blob: str, array: Array) -> Array:
        """Return a blob of the source as large as the artifact has it."""
        factor = self.factors.get(blob)
        return array if factor is None else np.asarray(array * factor)


def _are_whole(numbers: object) -> bool:
    return isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers)

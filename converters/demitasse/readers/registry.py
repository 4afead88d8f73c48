"""Join layer types to the functions that read them, for every source format alike.

A format has one `Registry`. `@reads("MyLayer")` above a function names the types that it reads; nothing is registered
anywhere else. The project's own functions stand in the format's `layers`; a user's stand in a file of their own, which
`load_plugin` runs.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from demitasse.errors import UsageError

__all__ = ["Registry", "described"]

F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[F]):
    """Finds the functions that read a format's layer types; it holds nothing but the mark that it leaves on them."""

    def __init__(self, format_name: str) -> None:
        self._mark = f"{format_name}_layer_types"

    def reads(self, *types: str) -> Callable[[F], F]:
        """Name the layer types that a function reads, as the format spells them."""

        def mark(function: F) -> F:
            setattr(function, self._mark, types)
            return function

        return mark

    def collect(self, namespaces: Iterable[Mapping[str, Any]]) -> dict[str, F]:
        """Find the marked functions; later namespaces replace what earlier ones say of a type."""
        found: dict[str, F] = {}
        for namespace in namespaces:
            for function in namespace.values():
                for layer_type in getattr(function, self._mark, ()):
                    found[layer_type] = function
        return found

    def load_plugin(self, path: Path) -> dict[str, F]:
        """Run a user's Python file and return the marked functions in it.

        Raises:
            UsageError: there is no such file, or no marked function in it.
        """
        if not path.is_file():
            raise UsageError(f"{path}: there is no such plugin file")
        found = self.collect([runpy.run_path(str(path), run_name=path.stem)])
        if not found:
            raise UsageError(f'{path}: no function in it is marked with @reads("LayerType")')
        return found


def described(readers: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    """Map each layer type to the first line of its reader's docstring."""
    return {layer_type: (function.__doc__ or "").partition("\n")[0] for layer_type, function in readers.items()}

"""Join layer types to the functions that read them.

A reader function takes a `LayerBuilder` and adds the layer's operations to the graph. `@reads("MyLayer")` above it
names the types that it reads; nothing is registered anywhere else. The project's own functions stand in `layers`; a
user's stand in a file of their own, which `load_plugin` runs::

    from demitasse.ir.ops import Unary, UnaryFunction
    from demitasse.readers.caffe import LayerBuilder, reads


    @reads("Sine")
    def sine(layer: LayerBuilder) -> None:
        '''Take the sine of each element.'''
        layer.emit(Unary(UnaryFunction.SIN), layer.x)
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from demitasse.errors import UsageError
from demitasse.readers.caffe.builder import LayerBuilder

__all__ = ["LayerFunction", "collect", "load_plugin", "reads"]

LayerFunction: TypeAlias = Callable[[LayerBuilder], None]

_TYPES = "caffe_layer_types"


def reads(*types: str) -> Callable[[LayerFunction], LayerFunction]:
    """Name the layer types that a function reads, spelled as `type:` in a prototxt.

    The function gets a `LayerBuilder`: its parameters (`layer.param("relu_param").number("negative_slope")`), its
    bottoms (`layer.x`, `layer.inputs(2)`), its weights (`layer.weight(0, "kernel", shape)`), and `layer.step` and
    `layer.emit` to compute. It has to read every parameter that can change the result and to give every top; what it
    forgets is reported as an error. The first line of its docstring describes the layer in the table of supported
    layers.
    """

    def mark(function: LayerFunction) -> LayerFunction:
        setattr(function, _TYPES, types)
        return function

    return mark


def collect(namespaces: Iterable[Mapping[str, Any]]) -> dict[str, LayerFunction]:
    """Find the functions marked with `@reads`; later namespaces replace what earlier ones say of a type."""
    found: dict[str, LayerFunction] = {}
    for namespace in namespaces:
        for function in namespace.values():
            for layer_type in getattr(function, _TYPES, ()):
                found[layer_type] = function
    return found


def load_plugin(path: Path) -> dict[str, LayerFunction]:
    """Run a user's Python file and return the functions in it that are marked with `@reads`.

    Raises:
        UsageError: there is no such file, or no marked function in it.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such plugin file")
    found = collect([runpy.run_path(str(path), run_name=path.stem)])
    if not found:
        raise UsageError(f'{path}: no function in it is marked with @reads("LayerType")')
    return found

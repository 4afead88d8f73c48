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

from collections.abc import Callable
from typing import TypeAlias

from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.registry import Registry

__all__ = ["REGISTRY", "LayerFunction", "reads"]

LayerFunction: TypeAlias = Callable[[LayerBuilder], None]

REGISTRY: Registry[LayerFunction] = Registry("caffe")

reads = REGISTRY.reads
"""Name the layer types that a function reads, spelled as `type:` in a prototxt.

The function gets a `LayerBuilder`: its parameters (`layer.param("relu_param").number("negative_slope")`), its
bottoms (`layer.x`, `layer.inputs(2)`), its weights (`layer.weight(0, "kernel", shape)`), and `layer.step` and
`layer.emit` to compute. It has to read every parameter that can change the result and to give every top; what it
forgets is reported as an error. The first line of its docstring describes the layer in the table of supported layers.
"""

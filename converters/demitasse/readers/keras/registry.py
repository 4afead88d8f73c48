"""Join kinds of layers to the functions that read them.

A reader function takes a `LayerBuilder`, adds the layer's operations to the graph and returns the result. A user's own
stand in a file of their own, which `--plugin` runs::

    from demitasse.ir.ops import UnaryFunction
    from demitasse.readers.keras import LayerBuilder, reads


    @reads("Sine")
    def sine(layer: LayerBuilder) -> str:
        '''Take the sine of each element.'''
        return layer.unary(UnaryFunction.SIN, layer.x)
"""

from __future__ import annotations

from demitasse.readers.keras.builder import LayerFunction
from demitasse.readers.registry import Registry

__all__ = ["REGISTRY", "reads"]

REGISTRY: Registry[LayerFunction] = Registry("keras")

reads = REGISTRY.reads
"""Name the kinds of layers that a function reads: class names in today's spelling, `ops.Add` for Keras 3's operations
on tensors, `tf.nn.relu` for tf.keras'. The function has to read every entry of the configuration that can change the
result; what it forgets is reported as an error. The first line of its docstring describes the layer in the table of
supported layers."""

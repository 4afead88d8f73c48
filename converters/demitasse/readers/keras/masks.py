"""Follow Keras' masks: which steps of a sequence are padding, from the layer that says so to those that pass over them.

A value may carry a mask. Layers that work element by element pass it on, layers that look at sequences as such heed it,
and all others drop it (`supports_masking` and `compute_mask` of each layer in Keras).
"""

from __future__ import annotations

from collections.abc import Sequence

from demitasse.readers.keras.builder import Assembly, Operand

__all__ = ["pass_on"]

_KEPT_BY = frozenset(
    """
    Activation ActivityRegularization AlphaDropout BatchNormalization Bidirectional Dense Dropout ELU GaussianDropout
    GaussianNoise Identity LayerNormalization LeakyReLU Masking PReLU ReLU RMSNormalization Softmax SpatialDropout1D
    ThresholdedReLU TimeDistributed UnitNormalization
    """.split()
)
_JOINED_BY = frozenset("Add Average Concatenate Maximum Minimum Multiply Subtract".split())


def pass_on(assembly: Assembly, kind: str, inputs: Sequence[Operand], results: Sequence[Operand]) -> None:
    """Let the results of a layer carry the mask of its inputs, where Keras does so."""
    masks = {assembly.padding[value] for value in inputs if value in assembly.padding}
    if not masks or not results or results[0] in assembly.padding:
        return
    if kind in _KEPT_BY and len(inputs) == 1:
        assembly.padding[results[0]] = masks.pop()
    elif kind in _JOINED_BY:
        unmasked = any(value not in assembly.padding for value in inputs)
        joined = masks.pop() if len(masks) == 1 and not unmasked else Operand(f"joined by {results[0]!r} ({kind})")
        assembly.padding[results[0]] = joined

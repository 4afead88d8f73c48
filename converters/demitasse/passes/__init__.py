"""Passes: each reads one graph and builds another that computes the same, in fewer or other operations.

Values keep their names, and `Graph.merged` says what became of those that a pass removed, so the result of every pass
can be run by the evaluator and compared with its input. A pass never changes the graph it is given.
"""

from demitasse.passes.batch import can_change_batch, with_batch
from demitasse.passes.channel_products import channel_products
from demitasse.passes.drop_identities import drop_identities
from demitasse.passes.fold_affine import fold_affine
from demitasse.passes.fold_constants import fold_constants
from demitasse.passes.fold_preprocessing import fold_preprocessing
from demitasse.passes.fuse_activations import fuse_activations
from demitasse.passes.layout import to_layout
from demitasse.passes.merge_pads import merge_pads
from demitasse.passes.prune import prune
from demitasse.passes.unroll import unroll

__all__ = [
    "can_change_batch",
    "channel_products",
    "drop_identities",
    "fold_affine",
    "fold_constants",
    "fold_preprocessing",
    "fuse_activations",
    "merge_pads",
    "prune",
    "to_layout",
    "unroll",
    "with_batch",
]

"""Rewrites graphs, one pass a module; every pass keeps what the graph computes."""

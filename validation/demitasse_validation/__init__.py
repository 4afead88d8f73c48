"""Proves, layer by layer, that an artifact computes what its source computed."""

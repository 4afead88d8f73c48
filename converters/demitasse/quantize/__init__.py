"""Finds the ranges of activations from calibration data, and names the recipes that use them."""

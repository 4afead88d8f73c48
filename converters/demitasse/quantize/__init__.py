"""Finds the ranges of activations from calibration data."""

"""Writes graphs as artifacts, one target format a module."""

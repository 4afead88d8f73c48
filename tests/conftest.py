"""Folders that tests read from, and settings that hold for all of them."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"

# Generated cases are the same in every run, and a slow machine fails no test.
hypothesis.settings.register_profile("demitasse", deadline=None, derandomize=True)
hypothesis.settings.load_profile("demitasse")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Small nets that a real Caffe ran, with its inputs and outputs, one net a folder."""
    return GOLDEN


@pytest.fixture(scope="session")
def zoo() -> Path:
    """Real trained models, which are not the project's own and so no part of it.

    The environment variable DEMITASSE_ZOO names their folder. Where it is unset and there is no `shared/zoo`
    beside the repository, the tests that need real models are skipped.
    """
    named = os.environ.get("DEMITASSE_ZOO")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "zoo"
    if named and not folder.is_dir():
        pytest.fail(f"DEMITASSE_ZOO names {folder}, which is no folder")
    if not folder.is_dir():
        pytest.skip(f"needs real models: {folder} is no folder, and DEMITASSE_ZOO names none")
    return folder

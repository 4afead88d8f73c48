"""Gives pytest a fixture that demands the same model, and an option that keeps the reports.

It is asked for, not installed, since it loads numpy: `pytest_plugins = ["demitasse_validation.pytest_plugin"]` in a
conftest.py, or `-p demitasse_validation.pytest_plugin`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demitasse_validation.report import Report
from demitasse_validation.testing import assert_same_model as assert_same

__all__ = ["assert_same_model", "pytest_addoption"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where reports are kept."""
    group = parser.getgroup("demitasse")
    group.addoption(
        "--model-reports",
        type=Path,
        metavar="DIR",
        help="write the report of every assert_same_model into a folder below DIR, named after its test",
    )


@pytest.fixture
def assert_same_model(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """Return `demitasse_validation.testing.assert_same_model`, which keeps its report where `--model-reports` says."""
    folder: Path | None = request.config.getoption("--model-reports")
    name = re.sub(r"[^\w.-]+", "-", request.node.nodeid).strip("-")
    calls = 0

    def check(*arguments: Any, **options: Any) -> Report:
        __tracebackhide__ = True
        nonlocal calls
        calls += 1
        if folder is not None:
            options.setdefault("report", folder / (name if calls == 1 else f"{name}-{calls}"))
        return assert_same(*arguments, **options)

    return check

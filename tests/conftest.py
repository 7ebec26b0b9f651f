"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def oracle() -> Path:
    """The folder of reference figures; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "oracle"
    if not folder.is_dir():
        pytest.skip(f"no reference figures at {folder}")
    return folder

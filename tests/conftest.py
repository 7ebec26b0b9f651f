"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("rein", deadline=None)  # a slow machine is no failure
settings.load_profile("rein")


@pytest.fixture(scope="session")
def oracle() -> Path:
    """The folder of reference figures; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "oracle"
    if not folder.is_dir():
        pytest.skip(f"no reference figures at {folder}")
    return folder

"""Fixtures for all tests."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from matplotlib.figure import Figure

settings.register_profile("rein", deadline=None)  # a slow machine is no failure
settings.load_profile("rein")


@pytest.fixture(scope="session")
def oracle() -> Path:
    """The folder of reference figures; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "oracle"
    if not folder.is_dir():
        pytest.skip(f"no reference figures at {folder}")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)
"""A PNG of one pixel."""


@pytest.fixture(autouse=True)
def quick_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are built and not rendered, which is most of a short training's time.

    Those of slow tests are rendered, and of tests marked `rendered`.
    """
    if any(request.node.get_closest_marker(name) for name in ("slow", "rendered")):
        return

    def saved(figure: Figure, target: Any, *, format: str, **more: Any) -> None:
        target.write(
            '<svg xmlns="http://www.w3.org/2000/svg"/>' if isinstance(target, io.StringIO) else PIXEL
        )

    monkeypatch.setattr(Figure, "savefig", saved)

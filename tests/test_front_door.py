"""The README's first two lines in a fresh clone and a fresh environment: minutes, for PyTorch is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_readme import shell_lines

SOURCE = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.long]


def typed(line: str, folder: Path, **variables: str) -> str:
    """What a line prints that is typed in a shell; it must end well."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(["bash", "-c", line], cwd=folder, text=True, capture_output=True, timeout=850,
                          env={**kept, **variables})  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """What is committed here, and nothing beside it."""
    if shutil.which("git") is None or not (SOURCE / ".git").exists():
        pytest.skip("not a clone of the repository")
    folder = tmp_path_factory.mktemp("door") / "rein"
    subprocess.run(["git", "clone", "--quiet", SOURCE, folder], check=True)
    return folder


def test_the_first_line_makes_an_environment_and_shows_a_result(clone):
    printed = typed(shell_lines("README.md")[0], clone)
    assert (clone / "rein-demo" / "contact_sheet.png").stat().st_size > 50_000
    assert "mIoU" in printed


def test_the_second_line_brings_what_tests_need_and_passes_them(clone):
    """As it is typed; pytest's own variable picks a part of the fast tests: all of them run beside this one."""
    if not (clone / ".venv").exists():
        subprocess.run(["python3", "-m", "venv", clone / ".venv"], check=True)
    printed = typed(
        shell_lines("README.md")[1], clone, PYTEST_ADDOPTS="-k 'test_config or test_settings_files'"
    )
    assert " passed" in printed
    assert " failed" not in printed

"""The wheel: built, installed away from the source, run from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reincli import __version__
from reincli.settings_files import preset_names

SOURCE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(SOURCE)], check=True)
    (built,) = out.glob("reincli-*.whl")
    return built


@pytest.mark.slow
def test_holds_the_package_its_presets_and_its_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"reincli/presets/{name}.toml" for name in preset_names()} <= names
    files = {"cli/__init__.py", "cli/evaluate.py", "commands/console.py", "config/__init__.py", "py.typed"}
    assert {f"reincli/{file}" for file in files} <= names
    assert "reincli/weights/mini.safetensors" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "docs")) or "__pycache__" in name]
    metadata = next(name for name in names if name.endswith("entry_points.txt"))
    assert "rein = reincli.__main__:main" in zipfile.ZipFile(wheel).read(metadata).decode()


@pytest.mark.slow
def test_runs_from_where_it_was_installed(wheel, tmp_path):
    place = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
    subprocess.run([*command, str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(place)}

    def rein(*args: str) -> str:
        program = [sys.executable, "-m", "reincli", *args]
        return subprocess.run(
            program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    where = subprocess.run(
        [
            sys.executable,
            "-c",
            "import reincli.settings_files as c; print(c.__file__); print(c.presets_folder())",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(line.startswith(str(place)) for line in where.split())
    listed = rein("presets")
    assert all(name in listed for name in preset_names())
    assert 'name = "gta2citys"' in rein("presets", "gta2citys")
    assert rein("--version") == f"rein {__version__}\n"
    assert wheel.name.startswith(f"reincli-{__version__}-")


def test_licence_is_the_unmodified_text():
    """Apache License 2.0 as published by its authors."""
    import hashlib

    digest = hashlib.sha256((SOURCE / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"

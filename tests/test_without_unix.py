"""The package works where there is no `resource`, `fcntl`, fork or SIGHUP, and processes start afresh (Windows)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from reincli.commands import launching
from reincli.media.inputs import find_inputs
from reincli.settings_files import to_toml

HERE = Path(__file__).parent


def python(*words: object, folder: Path) -> str:
    """What a Python without those prints; it must end well."""
    paths = [HERE / "without_unix", HERE.parent, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in paths if str(path))}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=folder, env=environment, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_stand_in_hides_what_it_says(tmp_path):
    code = (
        "import os, signal, importlib.util, multiprocessing as m\n"
        "print(hasattr(os, 'fork'), hasattr(signal, 'SIGHUP'), m.get_start_method())\n"
        "for name in ('resource', 'fcntl'):\n"
        "    try: __import__(name); print('there')\n"
        "    except ImportError: print('hidden')\n"
    )
    assert python("-c", code, folder=tmp_path).split() == ["False", "False", "spawn", "hidden", "hidden"]


def test_every_module_is_imported(tmp_path):
    code = (
        "import importlib, pkgutil, reincli\n"
        "names = [m.name for m in pkgutil.walk_packages(reincli.__path__, 'reincli.')]\n"
        "names = [n for n in names if not n.endswith(('_triton', '__main__'))]\n"
        "print(len([importlib.import_module(name) for name in names]))\n"
    )
    assert int(python("-c", code, folder=tmp_path)) > 100


@pytest.mark.slow
def test_a_model_is_trained_scored_and_shown_with_loaders_that_start_afresh(tmp_path):
    tiny.write_toy(tmp_path / "toy")
    settings = tiny.settings("data.workers=2", "train.validate_every=3", "train.points=64",
                             data=tiny.own_data(tmp_path / "toy"))  # fmt: skip
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings), "utf-8")
    rein = ("-m", "reincli")
    python(*rein, "train", "--config", "toy.toml", "--backbone", "backbone.pth", "--work-dir", "run", "--device",
           "cpu", folder=tmp_path)  # fmt: skip
    assert (tmp_path / "run" / "report.html").exists()
    printed = python(
        *rein, "eval", "run/last.pth", "--backbone", "backbone.pth", "--device", "cpu", folder=tmp_path
    )
    assert "mIoU" in printed
    python(*rein, "visualize", "toy/images/val", "--checkpoint", "run/last.pth", "--backbone", "backbone.pth",
           "--device", "cpu", "--out", "shown", folder=tmp_path)  # fmt: skip
    assert len(list((tmp_path / "shown").glob("*.png"))) == 3


def test_windows_waits_for_the_launcher(monkeypatch):
    """There `exec` starts another process and ends this one: the shell would not wait."""
    started: list[list[str]] = []
    monkeypatch.setattr(launching.os, "name", "nt")
    monkeypatch.setattr(launching.os, "execv", lambda *given: pytest.fail("exec on Windows"))
    monkeypatch.setattr(launching.subprocess, "call", lambda words: started.append(words) or 3)
    with pytest.raises(SystemExit) as caught:
        launching.launch(2, "cpu", ["train", "--preset", "demo"])
    monkeypatch.undo()
    assert caught.value.code == 3
    assert started[0][-4:] == ["reincli", "train", "--preset", "demo"]


def test_a_list_of_paths_written_on_windows(tmp_path):
    tiny.write_toy(tmp_path)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"images\\val\\0.png\r\nimages/val/1.png\r\n")
    found = find_inputs([str(listed)], tmp_path / "out")
    assert [each.source for each in found.files] == [
        tmp_path / "images/val/0.png",
        tmp_path / "images/val/1.png",
    ]
    assert found.files[0].target == tmp_path / "out" / "images" / "val" / "0.png"
    assert not found.missing

"""The command line: help without torch, one call a command, errors as one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Union, get_args, get_type_hints

import pytest
from terminal import rein

import reincli
import reincli.cli
from reincli.errors import ReinError

COMMANDS = [
    "demo", "pretrain", "download", "prepare-data", "convert-weights", "train", "eval", "calibrate", "compare",
    "visualize", "bench", "presets",
    "doctor",
]  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """Replace the function behind a command; what it was called with is kept."""
    seen: dict[str, dict] = {}

    def replace(module: str, effect: BaseException | None = None):
        fake = type(sys)(f"reincli.commands.{module}")

        def run(**options):
            seen[module] = options
            if effect is not None:
                raise effect

        fake.run = run
        monkeypatch.setitem(sys.modules, f"reincli.commands.{module}", fake)
        monkeypatch.setattr(importlib.import_module("reincli.commands"), module, fake, raising=False)
        return seen

    return replace


def test_help_names_every_command():
    result = rein("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_examples_and_quiet(command):
    result = rein(command, "--help")
    assert result.exit_code == 0
    assert "Examples" in result.output
    assert f"rein {command}" in result.output
    assert "--quiet" in result.output


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["--version"], ["presets"]])
def test_nothing_heavy_is_imported(args):
    program = (
        "import sys, json\n"
        "from reincli.cli import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'timm', 'cv2', 'scipy'} & set(sys.modules)\n"
        "print(json.dumps(sorted(heavy)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_importing_the_app_takes_neither_numpy_nor_rich_nor_pydantic():
    program = "import sys, reincli.cli; print({'rich', 'numpy', 'pydantic', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_version():
    assert rein("--version").output == f"rein {reincli.__version__}\n"


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "reincli", "--help"], capture_output=True, text=True, check=True
    )
    assert "rein" in done.stdout


@pytest.mark.parametrize(
    ("args", "module", "options"),
    [
        (["demo", "--iters", "3"], "demo", {"out": Path("rein-demo"), "iterations": 3}),
        (
            ["demo", "--ladder", "--seeds", "2", "--own", "mine.toml"],
            "demo_ladder",
            {"out": Path("rein-demo"), "iterations": None, "seeds": 2, "own": Path("mine.toml")},
        ),
        (
            ["pretrain", "mine.pth", "--steps", "20", "--seed", "4", "--device", "cpu"],
            "pretrain",
            {
                **{"target": Path("mine.pth"), "steps": 20, "tokens": None, "lights": None, "seed": 4},
                **{"device": "cpu", "precision": "auto", "force": False},
            },
        ),
        (
            ["prepare-data", "gta", "/disk/gta", "--workers", "3", "--check", "--json"],
            "prepare_data",
            {
                **{"dataset": "gta", "root": Path("/disk/gta")},
                **{"out": None, "workers": 3, "check": True, "force": False, "as_json": True, "config": None},
                **{
                    "severity": None,
                    "corruption": None,
                    "seed": 0,
                    "channels": "rgb",
                    "cache": False,
                    "lossless": False,
                    "version": None,
                },
            },
        ),
        (
            ["convert-weights", "--height", "1024"],
            "convert_weights",
            {
                **{"source": None, "target": None, "height": 1024, "width": None, "patch": 16, "kind": None},
                **{"backbone": None, "force": False, "any_backbone": False, "merge": False},
                **{"preset": None, "config": None},
            },
        ),
        (
            ["train", "--preset", "gta2citys", "--set", "optim.lr=6e-5", "--set", "train.seed=1"],
            "train",
            {
                "preset": "gta2citys",
                "config": None,
                "resume": None,
                "sets": ["optim.lr=6e-5", "train.seed=1"],
                "backbone": None,
                "work_dir": None,
                "data_root": None,
                "gpus": 1,
                "precision": None,
                "device": "auto",
                "any_backbone": False,
            },
        ),
        (
            ["adapt", "a.pth", "--target", "drive/", "--target", "acdc:train", "--source", "gta"],
            "adapt",
            {
                "checkpoint": Path("a.pth"),
                "target": ["drive/", "acdc:train"],
                "source": ["gta"],
                **{"preset": None, "config": None, "sets": None, "backbone": None, "work_dir": None},
                **{"data_root": None, "gpus": 1, "precision": None, "device": "auto", "any_backbone": False},
            },
        ),
        (
            [
                "eval",
                "a.pth",
                "--data",
                "acdc:val",
                "--mode",
                "whole",
                "--size",
                "960x540",
                "--precision",
                "bf16",
            ],
            "evaluate",
            {
                "checkpoint": Path("a.pth"),
                "preset": None,
                "config": None,
                "backbone": None,
                "data": ["acdc:val"],
                "sets": None,
                "mode": "whole",
                "tta": False,
                "size": "960x540",
                "data_root": None,
                "precision": "bf16",
                "device": "auto",
                "out": None,
                "label_ids": False,
                "json_file": None,
                **{"report_file": None, "submit": None, "allow_missing": False, "own": None},
                **{"anomaly": None, "calibration": False},
                "any_backbone": False,
            },
        ),
        (
            ["compare", "a.json", "b.json", "--draws", "500"],
            "compare",
            {
                **{"first": Path("a.json"), "second": Path("b.json")},
                **{"draws": 500, "level": 95.0, "seed": 0, "json_file": None},
            },
        ),
        (
            ["visualize", "a.png", "b", "--style", "side", "--no-legend", "--alpha", "0.3"],
            "visualize",
            {
                "inputs": ["a.png", "b"],
                "checkpoint": None,
                "backbone": None,
                "preset": None,
                "config": None,
                "out": Path("work_dirs/show"),
                "style": "side",
                "alpha": 0.3,
                "legend": False,
                "labels": False,
                "force": False,
                "mode": None,
                "size": "native",
                "precision": "auto",
                "device": "auto",
                "suffix": None,
                "match": None,
                **{
                    "confidence": False,
                    "truth": None,
                    **{"threshold": None, "anomaly": None, "abstain": None},
                    "sheet": False,
                    "start": None,
                    "end": None,
                    "every": 1,
                },
                **{"compare": None, "compare_backbone": None, "compare_preset": None},
                "any_backbone": False,
            },
        ),
        (["presets", "demo"], "presets", {"name": "demo"}),
        (["doctor", "--json"], "doctor", {"as_json": True}),
        (
            ["download", "gta", "dinov2_l", "--list", "--to", "x", "--parallel", "2"],
            "download",
            {"names": ["gta", "dinov2_l"], "show": True, "to": Path("x"), "mirror": None, "parallel": 2},
        ),
    ],
)
def test_each_command_calls_its_function(calls, args, module, options):
    seen = calls(module)
    assert rein(*args).exit_code == 0
    assert seen[module] == options


def plain_type(annotation: object) -> object:
    """The type that `run` gets: a choice arrives as its text."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return str
    inner = get_args(annotation)
    return Union[tuple(plain_type(each) for each in inner)] if type(None) in inner else annotation  # noqa: UP007


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_the_arguments_of_the_function(name):
    """The same names and types, and where both have a default, the same."""
    command = reincli.cli.COMMANDS[name].command
    declared, types = dict(inspect.signature(command).parameters), get_type_hints(command)
    modules = {"demo": ["demo", "demo_ladder"], "eval": ["evaluate"]}.get(name, [name.replace("-", "_")])
    taken = set()
    for module in modules:
        run = importlib.import_module(f"reincli.commands.{module}").run
        for argument in inspect.signature(run).parameters.values():
            taken.add(argument.name)
            assert get_type_hints(run)[argument.name] == plain_type(types[argument.name]), argument
            default = declared[argument.name].default
            if argument.default is not argument.empty:
                assert argument.default == getattr(default, "value", default), argument
    assert set(declared) - taken == {"quiet", *(["ladder"] if name == "demo" else [])}


@pytest.mark.parametrize(
    ("effect", "code", "line"),
    [
        (ReinError("No such thing 'x'.", "Try y."), 1, "error: No such thing 'x'.\nTry y.\n"),
        (ReinError("Wrong word.", usage=True), 2, "error: Wrong word.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (KeyboardInterrupt("3 of 9 are written."), 130, "Interrupted. 3 of 9 are written.\n"),
        (OSError(errno.ENOSPC, "No space", "a.png"), 1, "error: No space left on the disk for 'a.png'.\n"),
        (
            PermissionError(errno.EACCES, "denied", "a.png"),
            1,
            "error: No permission to read or write 'a.png'.\n",
        ),
        (OSError(errno.EIO, "on fire", "a.png"), 1, "error: The system reports 'on fire' for 'a.png'.\n"),
        (OSError(errno.ELOOP, "loop", "a.png"), 1, "error: The link 'a.png' leads back to itself.\n"),
        (
            OSError(errno.EMFILE, "many"),
            1,
            "error: Too many files are open at once.\nAllow more: ulimit -n 4096\n",
        ),
        (MemoryError(), 1, "error: Memory ran out.\n"),
    ],
)
def test_errors_are_a_line_and_an_exit_code(calls, effect, code, line):
    calls("presets", effect)
    result = rein("presets", code=None)
    assert result.exit_code == code
    assert result.stderr.startswith(line)
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_a_full_gpu_is_a_line_wherever_it_is_met(calls):
    import torch

    calls("presets", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ..."))
    result = rein("presets", code=1)
    assert result.stderr.startswith("error: Memory ran out: CUDA out of memory.\nSee what else takes it")


@pytest.mark.parametrize(
    "effect", [ValueError("a bug"), RuntimeError("one too"), OSError(errno.EBADF, "no file")]
)
def test_a_bug_keeps_its_traceback(calls, effect):
    calls("presets", effect)
    assert rein("presets", code=None).exception is effect


def test_quiet_reaches_the_command_and_ends_with_it(calls, capsys):
    from reincli.commands import console

    calls("presets")
    sys.modules["reincli.commands.presets"].run = lambda name: console.note("a remark")
    assert rein("presets", "--quiet").stderr == ""
    assert rein("presets").stderr == "a remark\n"


@pytest.mark.parametrize(
    "args", [["nonsense"], ["train", "--presett", "x"], ["visualize"], ["demo", "--iters", "0"]]
)
def test_wrong_use_is_exit_code_2(args):
    assert rein(*args, code=2).exit_code == 2

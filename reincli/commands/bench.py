"""`rein bench`: how fast a setting predicts and trains on this machine, and where the time goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reincli.bench.exported import compared
from reincli.bench.measure import WORK, Plan, Row, measure
from reincli.bench.speed import describe
from reincli.commands import console
from reincli.config import Settings, parse_size, test_size
from reincli.engine.backbone_files import used_backbone
from reincli.engine.checkpoint import read_checkpoint, settings_for
from reincli.engine.device import DTYPES, pick_device, pick_precision
from reincli.errors import ReinError, nearest
from reincli.media.outputs import Outputs, at_work_on, mark
from reincli.media.whole_files import write_bytes
from reincli.model.attention import require_attention
from reincli.prediction.exported import is_exported
from reincli.settings_files import build_settings, load_settings

DEFAULT = "gta2citys"
"""Preset where neither it nor a file is given: the recipe of the paper."""
BATCHES = {"cpu": "1", "mps": "1,4", "cuda": "1,4,16"}
EXPORTED_RUNS, EXPORTED_SECONDS = 20, 20.0
"""As the next, for an exported file and each runtime beside it."""
RUNS, SECONDS = {"cpu": 5, "mps": 20, "cuda": 50}, 10.0
"""Calls of a row that are timed, and the time after which none is begun."""


def run(
    *,
    preset: str | None = None,
    config: Path | None = None,
    checkpoint: Path | None = None,
    backbone: Path | None = None,
    what: str | None = None,
    batch: str | None = None,
    precision: str | None = None,
    attention: str | None = None,
    size: str | None = None,
    runs: int | None = None,
    compile_: bool = False,
    cuda_graphs: bool = False,
    device: str = "auto",
    sets: list[str] | None = None,
    json_file: Path | None = None,
    any_backbone: bool = False,
) -> None:
    """Measure, and print tables; what is done when Ctrl-C comes is printed and written too."""
    if checkpoint is not None and is_exported(checkpoint):
        others = {"--preset": preset, "--config": config, "--backbone": backbone, "--what": what, "--batch": batch,
                  "--precision": precision, "--attention": attention, "--size": size, "--compile": compile_,
                  "--cuda-graphs": cuda_graphs, "--set": sets, "--device": device not in ("auto", "cpu")}  # fmt: skip
        refuse_for_exported(checkpoint, [name for name, value in others.items() if value])
        if json_file is not None:
            Outputs("bench", [checkpoint, checkpoint.with_suffix(".bin")]).claim(json_file, "--json")
        with at_work_on("bench", json_file):
            bench_exported(checkpoint, runs or EXPORTED_RUNS, json_file)
        return
    place = pick_device(device)
    options = {"train.compile": compile_ or None, "test.compile": compile_ or None}
    options["test.cuda_graphs"] = cuda_graphs or None
    if checkpoint is not None and not (preset or config):
        notes: list[str] = []
        read = settings_for(read_checkpoint(checkpoint), None, backbone, notes=notes)
        for text in notes:
            console.note(text)
        settings = build_settings(read.model_dump(mode="json"), sets or (), options)
    else:
        chosen = preset if preset or config else DEFAULT
        settings = load_settings(chosen, config, sets or (), options)
    usual = "fp32,bf16" if place.type == "cuda" else "auto"
    plan = Plan(
        settings, place, works(what) if what else WORK, numbers(batch or BATCHES[place.type]),
        tuple(dict.fromkeys(pick_precision(name, place) for name in words(precision or usual, "--precision"))),
        slide_size(settings, size), runs or RUNS[place.type], SECONDS, checkpoint, backbone, any_backbone,
        words(attention, "--attention") if attention else (),
    )  # fmt: skip
    if cuda_graphs and place.type != "cuda":
        console.note("--cuda-graphs is for GPUs: without one, launches cost nothing worth recording.")
    if json_file is not None:
        used = used_backbone(settings, backbone)
        Outputs("bench", [checkpoint, used, config]).claim(json_file, "--json")
    for each in plan.attentions or (
        settings.model.backbone.attention,
    ):  # what cannot be is said before it begins
        build_settings(settings.model_dump(mode="json"), (), {"model.backbone.attention": each})
        for arithmetic in plan.precisions:
            require_attention(each, place, DTYPES[arithmetic])
    with at_work_on("bench", json_file):
        bench_plan(plan, json_file)


def refuse_for_exported(path: Path, given: Sequence[str]) -> None:
    """ReinError for options that would change nothing of what an exported file is measured at."""
    if given:
        raise ReinError(
            f"'{path}' is measured as it is, at its own size, batch and precision, on the CPU: {', '.join(given)} "
            "cannot be had.",
            f"Leave {', '.join(given)} out, or export another file.",
            usage=True,
        )


def bench_plan(plan: Plan, json_file: Path | None) -> None:
    """Measure row by row; what is done is shown and written however it ends."""
    done: list[Row] = []
    try:
        with console.progress("measuring", plan.rows) as advance:
            for row in measure(plan):
                done.append(row)
                advance(note=row.failure)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{len(done)} of {plan.rows} rows were measured.") from None
    finally:
        if done:
            show(plan, done)
            if json_file is not None:
                write_bytes(json_file, json.dumps(as_json(plan, done), indent=1).encode())


def bench_exported(path: Path, runs: int, json_file: Path | None) -> None:
    """An exported file beside PyTorch, on the CPU."""
    rows = []
    with console.progress("measuring", 2) as advance:
        for row in compared(path, runs, EXPORTED_SECONDS):
            rows.append(row)
            advance()
    console.table(
        ("runtime", "arithmetic", "ms", "min", "times as fast"),
        [
            (r.runtime, r.precision, _short(1000 * r.median), _short(1000 * r.least), f"{r.gain:.2f}")
            for r in rows
        ],
        title=f"{path.name} on {describe(torch.device('cpu'))['name']}; PyTorch with random weights",
        numbers=("ms", "min", "times as fast"),
    )
    if json_file is not None:
        about: dict[str, Any] = {"made_by": mark("bench"), "file": str(path), **describe(torch.device("cpu"))}
        about["rows"] = [asdict(row) for row in rows]
        write_bytes(json_file, json.dumps(about, indent=1).encode())


# --- options -----------------------------------------------------------------------------------------------


def words(text: str, option: str) -> tuple[str, ...]:
    """'a,b' -> ('a', 'b'), each once. ReinError where there is none."""
    found = tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
    if not found:
        raise ReinError(f"{option} names nothing.", f"For example: {option} A,B", usage=True)
    return found


def works(text: str) -> tuple[str, ...]:
    """Kinds of work, checked."""
    found = words(text, "--what")
    for each in found:
        if each not in WORK:
            raise ReinError(f"--what '{each}' is no kind of work.", nearest(each, WORK), usage=True)
    return found


def numbers(text: str) -> tuple[int, ...]:
    """'1,4,16' -> (1, 4, 16)."""
    found = words(text, "--batch")
    if not all(each.isdecimal() and int(each) for each in found):
        raise ReinError(
            f"--batch '{text}' is not a list of positive numbers.", "For example: --batch 1,4,16", usage=True
        )
    return tuple(int(each) for each in found)


def slide_size(settings: Settings, text: str | None) -> tuple[int, int]:
    """(width, height) of the image that is predicted by windows: as asked for, else as the setting tests."""
    try:
        given = parse_size(text) if text else None
    except ValueError as error:
        raise ReinError(f"--{error}.", "For example: --size 1024x512", usage=True) from None
    if given is not None:
        return given
    usual = parse_size(test_size(settings, settings.data.val[0].split(":")[0])) if settings.data.val else None
    return usual or (2 * settings.test.window, settings.test.window)


# --- results -----------------------------------------------------------------------------------------------


def show(plan: Plan, rows: Sequence[Row]) -> None:
    """Two tables: numbers of each row, and shares of its parts."""
    here = describe(plan.device)
    weights = plan.checkpoint or plan.backbone or "random"
    how = ", compiled" * plan.settings.test.compile + ", CUDA graphs" * plan.settings.test.cuda_graphs
    title = (
        f"{plan.settings.name}: {plan.settings.model.backbone.name} on {here['name']}, torch {here['torch']}"
    )
    columns = (
        "work", "size", "batch", "arithmetic", "attention", "ms", "min", "p90", "images/s", "peak GiB", "GFLOP",
        "TFLOP/s", "at best", "share", "",
    )  # fmt: skip
    console.table(
        columns,
        map(_cells, rows),
        title=f"{title}{how}; weights: {weights}",
        numbers=columns[2:3] + columns[5:14],
    )
    names = list(dict.fromkeys(name for row in rows for name in row.parts))
    if names:
        parts = [_part_cells(row, names) for row in rows if row.parts]
        console.table(
            ("work", "batch", "arithmetic", "attention", *names), parts, title="Share of time by part, measured apart",
            numbers=("batch", *names),
        )  # fmt: skip
    needed = max((row.images or 0.0 for row in rows if row.what == "training"), default=0.0)
    if needed:
        console.note(f"To keep training busy, data.workers must bring {needed:.1f} samples/s together.")


def _cells(row: Row) -> list[str]:
    start = [row.what, row.size, str(row.batch), row.precision, row.attention]
    if row.median is None or row.least is None or row.p90 is None or row.flops is None or row.memory is None:
        return [*start, *[""] * 9, row.failure]
    return [
        *start, _short(1000 * row.median), _short(1000 * row.least), _short(1000 * row.p90),
        _short(row.images or 0.0), f"{row.memory / 2**30:.2f}", _short(row.flops / 1e9),
        _short(row.flops / row.median / 1e12), _short((row.rate or 0.0) / 1e12), f"{row.share or 0.0:.0%}", row.note,
    ]  # fmt: skip


def _part_cells(row: Row, names: Sequence[str]) -> list[str]:
    whole = sum(row.parts.values())
    shares = [f"{row.parts[name] / whole:.0%}" if name in row.parts else "" for name in names]
    return [row.what, str(row.batch), row.precision, row.attention, *shares]


def _short(value: float) -> str:
    """Three digits, thousands grouped."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def as_json(plan: Plan, rows: Sequence[Row]) -> dict[str, Any]:
    """What `--json` writes."""
    settings = plan.settings
    return {
        "made_by": mark("bench"),
        "preset": settings.name,
        "backbone": settings.model.backbone.name,
        "weights": str(plan.checkpoint or plan.backbone or "random"),
        "compiled": settings.test.compile,
        "cuda_graphs": settings.test.cuda_graphs,
        "window": settings.test.window,
        "stride": settings.test.stride,
        **describe(plan.device),
        "complete": len(rows) == plan.rows,
        "rows": [row.as_dict() for row in rows],
    }

"""`rein eval`: a checkpoint in, scores per domain out."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from reincli.commands import console
from reincli.config import Settings, build_settings, load_settings, parse_size
from reincli.data.images import write_bytes, write_png
from reincli.data.sources import Sample
from reincli.engine.checkpoint import read_checkpoint, settings_for
from reincli.engine.evaluate import Evaluation, evaluate, report, val_samples
from reincli.engine.predict import Predictor, load_segmentor
from reincli.errors import ReinError


def run(
    checkpoint: Path,
    *,
    preset: str | None = None,
    config: Path | None = None,
    backbone: Path | None = None,
    data: list[str] | None = None,
    sets: list[str] | None = None,
    mode: str | None = None,
    size: str | None = None,
    data_root: Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    out: Path | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Score a checkpoint; the report that `--json` writes is returned."""
    if size is not None:
        check_size(size)
    settings = chosen_settings(checkpoint, preset, config, sets or [], data_root)
    samples = val_samples(settings, data)
    predictor = load_segmentor(
        checkpoint, backbone=backbone, settings=settings, device=device, precision=precision
    )
    for text in predictor.notes:
        console.note(text)
    evaluation = Evaluation(predictor.classes.names)
    try:
        _evaluate(predictor, samples, evaluation, size, mode, out)
    finally:  # what an interrupted run has counted is shown, and called partial
        result = report(predictor, evaluation, str(checkpoint), mode)
        if evaluation.domains:
            show(result)
            if json_file is not None:
                write_bytes(json_file, (json.dumps(result, indent=1) + "\n").encode())
    return result


def check_size(size: str) -> None:
    """ReinError for a size that is neither native nor WxH."""
    try:
        parse_size(size)
    except ValueError as error:
        raise ReinError(f"--size: {error}.", usage=True) from None


def chosen_settings(
    checkpoint: Path, preset: str | None, config: Path | None, sets: list[str], data_root: Path | None
) -> Settings:
    """Settings for a checkpoint: of a preset or file where given, else its own; then the options."""
    options = {"data.root": str(data_root) if data_root else None}
    if preset or config:
        return load_settings(preset, config, sets, options)
    return build_settings(
        settings_for(read_checkpoint(checkpoint), None).model_dump(mode="json"), sets, options
    )


def _evaluate(
    predictor: Predictor,
    samples: list[Sample],
    evaluation: Evaluation,
    size: str | None,
    mode: str | None,
    out: Path | None,
) -> None:
    with ThreadPoolExecutor(2) as writers, console.progress("Evaluating", total=len(samples)) as advance:
        written = []

        def on_image(sample: Sample, prediction: np.ndarray) -> None:
            if out is not None:
                path = out / sample.domain / PurePosixPath(sample.name).with_suffix(".png")
                written.append(writers.submit(write_png, path, prediction))
            advance(1, note=sample.domain)

        evaluate(predictor, samples, size=size, mode=mode, on_image=on_image, into=evaluation)
        for job in written:
            job.result()


def show(result: dict[str, Any], title: str = "") -> None:
    """Protocol, table of classes by domains, means, and published scores beside them."""
    protocol, domains = result["protocol"], result["domains"]
    sizes = ", ".join(f"{name} at {domain['test_size']}" for name, domain in domains.items())
    window = f" {protocol['window']}/{protocol['stride']}" if protocol["window"] else ""
    partial = "" if result["complete"] else "PARTIAL, interrupted: "
    heading = f"{title}: " if title else ""
    console.result(
        f"{heading}{partial}{protocol['mode']}{window}, {protocol['precision']}; test size: {sizes}"
    )
    names = list(next(iter(domains.values()))["IoU"])
    columns = ["IoU %", *domains]
    rows = [[name, *(_percent(domain["IoU"][name]) for domain in domains.values())] for name in names]
    rows += [
        ["mIoU", *(_percent(domain["mIoU"]) for domain in domains.values())],
        ["mAcc", *(_percent(domain["mAcc"]) for domain in domains.values())],
        ["aAcc", *(_percent(domain["aAcc"]) for domain in domains.values())],
        ["images", *(str(domain["images"]) for domain in domains.values())],
    ]
    published = result["published"]
    if any(name in published for name in domains):
        rows.append(["published", *(_percent(published.get(name)) for name in domains)])
    console.table(columns, rows, numbers=set(columns[1:]))
    mean = result["mean"]
    console.result(
        f"Mean of {', '.join(mean['domains'])}: mIoU {_percent(mean['mIoU'])}  mAcc {_percent(mean['mAcc'])}  "
        f"aAcc {_percent(mean['aAcc'])}"
    )
    others = {name: score for name, score in published.items() if name not in domains}
    if others:
        console.result("Published for this setting: " + ", ".join(f"{k} {v:.1f}" for k, v in others.items()))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

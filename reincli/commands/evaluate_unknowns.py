"""`rein eval --anomaly`: how well a model tells unknown objects, as a table, JSON and a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reincli.commands import console
from reincli.commands.label_maps import MAKER
from reincli.commands.score_table import percent, protocol_line
from reincli.commands.unknown_page import Ends, as_domains, figure_rows, merge, page
from reincli.config import DataSettings
from reincli.data.unknowns import Unknowns, require_unknowns, sources_of
from reincli.engine.ranks import Rank
from reincli.errors import ReinError
from reincli.media.outputs import Outputs, at_work_on, mark
from reincli.media.whole_files import write_bytes
from reincli.prediction.predict import Predictor
from reincli.prediction.unknowns import (
    ScoredUnknown,
    UnknownEvaluation,
    evaluate_unknowns,
    report_unknowns,
)

LOOSE = 0.01
"""Percentage points of uncertainty from which on it is told."""


@dataclass(frozen=True)
class UnknownRequest:
    """What is to be scored, ready to be: `sources` with labels that were read, files that are free to be written."""

    sources: list[Unknowns]
    json_file: Path | None
    report_file: Path | None


def prepare(
    names: Sequence[str],
    data: DataSettings,
    reads: Sequence[Path | None],
    outputs: tuple[Path | None, Path | None],
    others: Mapping[str, object],
) -> UnknownRequest:
    """Refuse what cannot be scored before a model is loaded.

    Args:
        names: of `--anomaly`. data: where they lie. reads: other files that are read.
        outputs: of `--json` and `--report`. others: what else was asked for, by its option.

    Raises:
        ReinError: options that do not go with it, sources and labels that do not fit, outputs that are in the way.
    """
    given = [name for name, value in others.items() if value]
    if given:
        raise ReinError(
            f"--anomaly scores unknown objects alone; {given[0]} is about the classes.",
            "Give two commands.",
            usage=True,
        )
    sources = sources_of(names, data)
    files = [file for source in sources for each in source.samples for file in (each.image, each.label)]
    free = Outputs(MAKER, [*reads, *files])
    for option, path in zip(("--json", "--report"), outputs, strict=True):
        if path is not None:
            free.claim(path, option)
    for source in sources:
        require_unknowns(source)
    return UnknownRequest(sources, *outputs)


def run_unknowns(
    predictor: Predictor,
    request: UnknownRequest,
    checkpoint: Path,
    *,
    size: str | None,
    mode: str | None,
    rank: Rank,
) -> dict[str, Any]:
    """Score, print and write; returns what `--json` writes, without its mark."""
    evaluation, ends = UnknownEvaluation(), Ends(len(predictor.classes))
    total = sum(len(rank.share(source.samples)) for source in request.sources)
    outputs = (request.json_file, request.report_file)
    with rank.group(), nullcontext() if rank.rank else at_work_on(MAKER, *outputs):
        with (
            _told_if_stopped(predictor, evaluation, checkpoint, request, rank, total),
            console.progress("Evaluating", total=total) as advance,
        ):

            def on_image(scored: ScoredUnknown) -> None:
                if request.report_file is not None:
                    ends.add(scored)
                advance(1, note=scored.source)

            evaluate_unknowns(
                predictor,
                request.sources,
                size=size,
                mode=mode,
                on_image=on_image,
                into=evaluation,
                rank=rank,
            )
        parts = rank.gather(ends)
        result = report_unknowns(predictor, evaluation, str(checkpoint))
        if not rank.rank:
            show(result)
            _write_json(result, request.json_file)
            if request.report_file is not None:
                text = page(result, merge(parts), len(predictor.classes))
                write_bytes(request.report_file, text.encode())
                console.note(f"Report: {request.report_file}")
    return result


def show(result: Mapping[str, Any]) -> None:
    """Print figures by source, and what was counted."""
    console.result(protocol_line(as_domains(result)))
    found = result["unknown"]
    columns = ["unknown objects, %", *found]
    rows = [[title, *map(percent, values)] for title, values in figure_rows(found)]
    rows.append(["images", *(str(each["images"]) for each in found.values())])
    rows.append(["with unknown pixels", *(str(each["with_unknown"]) for each in found.values())])
    console.table(columns, rows, numbers=set(columns[1:]))
    for name, each in found.items():
        if each["threshold"] is not None:
            console.result(
                f"{name}: 95 % of the unknown pixels have an anomaly of {each['threshold']:.4f} or more."
            )
        loose = {key: value for key, value in each["uncertainty"].items() if value > LOOSE}
        if loose:
            told = ", ".join(f"{key} by up to {value:.2g}" for key, value in loose.items())
            console.result(f"{name}: many pixels have nearly one score; their order may move {told}.")


def _write_json(result: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        write_bytes(path, (json.dumps({"made_by": mark(MAKER), **result}, indent=1) + "\n").encode())


@contextmanager
def _told_if_stopped(
    predictor: Predictor,
    evaluation: UnknownEvaluation,
    checkpoint: Path,
    request: UnknownRequest,
    rank: Rank,
    total: int,
) -> Iterator[None]:
    """Where a run ends early, show what it has, as partial; then the reason goes its way."""
    try:
        yield
    except (KeyboardInterrupt, ReinError) as reason:
        done = sum(len(found.images) for found in evaluation.sources.values())
        if done and not rank.rank:
            result = report_unknowns(predictor, evaluation, str(checkpoint))
            show(result)
            _write_json(result, request.json_file)
        if isinstance(reason, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{done} of {total} images were scored.") from None
        raise

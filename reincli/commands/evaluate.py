"""`rein eval`: a checkpoint in, scores per domain out; also label maps, a page, and the zip of a benchmark."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from reincli.commands import console
from reincli.commands.certainty import show_certainty
from reincli.commands.evaluate_unknowns import prepare, run_unknowns
from reincli.commands.score_examples import Extremes, merge
from reincli.commands.score_page import page
from reincli.commands.score_table import protocol_line, show
from reincli.config import Settings, parse_size, test_size
from reincli.data.labels import CITYSCAPES
from reincli.data.sources import Sample, each_once, find_samples, scorable_samples
from reincli.data.submission import SOURCE, Submission
from reincli.engine.backbone_files import used_backbone
from reincli.engine.checkpoint import read_checkpoint, settings_for
from reincli.engine.ranks import Rank, this_rank
from reincli.errors import ReinError
from reincli.media.images import write_bytes, write_png
from reincli.media.outputs import Outputs, at_work, mark
from reincli.prediction.evaluate import Scored, domain_names, evaluate
from reincli.prediction.exported import is_exported, open_session
from reincli.prediction.opening import open_segmentor
from reincli.prediction.predict import Predictor
from reincli.prediction.results import Evaluation, image_matrices, report
from reincli.settings_files import build_settings, load_settings, read_config

MAKER = "eval"
"""How files that this command writes are marked."""
WRITERS = 4
"""Threads that write label maps."""
QUEUED = 16
"""Label maps that wait to be written before the evaluation waits for them."""


@dataclass(frozen=True)
class Wanted:
    """What is to be written, None where it is not."""

    out: Path | None = None
    json_file: Path | None = None
    report_file: Path | None = None
    submission: Submission | None = None
    extremes: Extremes = field(default_factory=Extremes)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Be the only process that writes them while the body runs. ReinError where another one is at it."""
        zipped = None if self.submission is None else self.submission.path
        with ExitStack() as stack:
            if self.out is not None:
                stack.enter_context(at_work(self.out, MAKER))
            for path in (self.json_file, self.report_file, zipped):
                if path is not None:
                    stack.enter_context(at_work(path, MAKER, file=True))
            yield


def run(
    checkpoint: Path,
    *,
    preset: str | None = None,
    config: Path | None = None,
    backbone: Path | None = None,
    data: list[str] | None = None,
    sets: list[str] | None = None,
    mode: str | None = None,
    tta: bool = False,
    size: str | None = None,
    data_root: Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    out: Path | None = None,
    json_file: Path | None = None,
    report_file: Path | None = None,
    submit: Path | None = None,
    allow_missing: bool = False,
    own: Path | None = None,
    anomaly: list[str] | None = None,
    calibration: bool = False,
    any_backbone: bool = False,
) -> dict[str, Any]:
    """Score a checkpoint; what is returned is what `--json` writes, without the matrices of single images.

    Started by torchrun, each process takes its share of the images, and the first one tells.
    """
    rank = this_rank()
    if rank.rank:
        console.configure(quiet=True)
    if size is not None:
        check_size(size)
    if submit is not None and submit.suffix != ".zip":
        raise ReinError(f"--submit '{submit}' does not end with .zip.", usage=True)
    settings = chosen_settings(
        checkpoint, preset, config, sets or [], data_root, own, backbone=backbone, data=data or []
    )
    reads = [checkpoint, used_backbone(settings, backbone), config, own]
    unknown = None
    if anomaly:
        others = {
            "--data": data,
            "--tta": tta,
            "--out": out,
            "--submit": submit,
            "--allow-missing": allow_missing,
            "--calibration": calibration,
        }
        unknown = prepare(anomaly, settings.data, reads, (json_file, report_file), others)
    if calibration and (tta or settings.test.tta):
        raise ReinError(
            "--calibration is about single predictions; averages of views (--tta, test.tta) have no scores.",
            "Leave out one of them.",
            usage=True,
        )
    sources = [each for source in data or [] for each in corrupted_sources(source)]
    sources = sources or ([SOURCE] if submit else list(settings.data.val))
    samples, left_out = ([], {}) if unknown else find_all(sources, settings, allow_missing, submit)
    outputs = Wanted(out, json_file, report_file, _submission(submit, samples))
    if unknown is None:
        require_free(outputs, samples, reads)
    predictor = open_segmentor(
        checkpoint,
        backbone=backbone,
        settings=settings,
        device=rank.device(device),
        precision=precision,
        any_backbone=any_backbone,
    )
    for text in predictor.notes:
        console.note(text)
    predictor.tell = console.problem
    if unknown is not None:
        return run_unknowns(predictor, unknown, checkpoint, size=size, mode=mode, rank=rank)
    if submit and predictor.classes.names != CITYSCAPES.names:
        message = (
            f"The ACDC benchmark has the 19 Cityscapes classes, '{checkpoint}' has {len(predictor.classes)}."
        )
        raise ReinError(message, "Submit a model of those classes.", usage=True)
    evaluation = Evaluation(predictor.classes.names, left_out=left_out)
    with rank.group(), nullcontext() if rank.rank else outputs.at_work():
        with _told_if_stopped(predictor, evaluation, checkpoint, sources, outputs, rank, len(samples)):
            _evaluate(predictor, samples, evaluation, (size, mode, tta or None), outputs, rank, calibration)
        extremes = rank.gather(outputs.extremes) if report_file else []
        rank.gather(None)  # the label maps of every process are written
        require_scored(evaluation, submit)
        result = report(predictor, evaluation, str(checkpoint), sources)
        if not rank.rank:
            _deliver(result, evaluation, predictor, outputs, extremes)
    return result


def require_free(wanted: Wanted, samples: Sequence[Sample], reads: Sequence[Path | None]) -> None:
    """ReinError where an output would be written over a file that is read, or over somebody else's."""
    labels = [sample.label for sample in samples]
    outputs = Outputs(MAKER, [*reads, *(sample.image for sample in samples), *labels])
    if wanted.json_file is not None:
        outputs.claim(wanted.json_file, "--json")
    if wanted.report_file is not None:
        outputs.claim(wanted.report_file, "--report")
    if wanted.submission is not None:
        outputs.claim(wanted.submission.path, "--submit")
    if wanted.out is not None:
        names = domain_names([sample for sample in samples if sample.label is not None])
        for sample in samples:
            domain = names.get((sample.dataset, sample.domain), sample.domain)
            outputs.claim(map_of(wanted.out, domain, sample), "--out")


def map_of(out: Path, domain: str, sample: Sample) -> Path:
    """Where the label map of an image goes."""
    return out / domain / PurePosixPath(sample.name).with_suffix(".png")


def require_scored(evaluation: Evaluation, submit: Path | None) -> None:
    """ReinError where no pixel of any image was scored: a table of nothing would look like a result."""
    if submit is None and not any(domain.matrix.any() for domain in evaluation.domains.values()):
        raise ReinError(
            "Nothing could be scored: every pixel of every label is ignored.",
            "Look at what the labels hold: rein prepare-data NAME --check",
        )


def check_size(size: str) -> None:
    """ReinError for a size that is neither native nor WxH."""
    try:
        parse_size(size)
    except ValueError as error:
        raise ReinError(f"--size: {error}.", usage=True) from None


def chosen_settings(
    checkpoint: Path, preset: str | None, config: Path | None, sets: list[str], data_root: Path | None,
    own: Path | None = None, *, backbone: Path | None = None, data: Sequence[str] = (),
) -> Settings:  # fmt: skip
    """Settings for a checkpoint: of a preset or file where given, else its own; then own datasets and the options.

    `backbone` and `data` decide what a checkpoint of the original's is taken for; the user is told.
    """
    options = {"data.root": str(data_root) if data_root else None}
    if preset or config:
        raw = load_settings(preset, config, sets, options).model_dump(mode="json")
    elif is_exported(checkpoint):
        raw = open_session(checkpoint, "cpu")[1].settings.model_dump(mode="json")
    else:
        notes: list[str] = []
        read = read_checkpoint(checkpoint)
        raw = settings_for(read, None, backbone, scored=data, notes=notes).model_dump(mode="json")
        for text in notes:
            console.note(text)
    if own is not None:
        raw["data"] |= described_data(own)
    return build_settings(raw, sets, options)


def described_data(own: Path) -> dict[str, Any]:
    """What a file says of own datasets to score: the values of `[data]` that take the place of the run's.

    Raises:
        ReinError: the file cannot be read, or names nothing to score.
    """
    described = read_config(own).get("data", {})
    sources = described.get("val", [])
    if not described.get("own") or not sources:
        raise ReinError(
            f"'{own}' says of no own dataset what to score.",
            'It needs [data] with val = ["NAME:SPLIT"] and [data.own.NAME]: docs/own-data.md.',
            usage=True,
        )
    return {"own": described["own"], "val": sources, "mean": described.get("mean")}


# --- what is scored ----------------------------------------------------------------------------------------


def corrupted_sources(source: str) -> list[str]:
    """'cityscapes-c:all' -> its five severities; every other source as it is."""
    return [f"cityscapes-c:severity{n}" for n in range(1, 6)] if source == "cityscapes-c:all" else [source]


def find_all(
    sources: Sequence[str], settings: Settings, allow_missing: bool, submit: Path | None
) -> tuple[list[Sample], dict[str, int]]:
    """The images of all sources, and by source how many files are left out for want of a partner.

    Raises:
        ReinError: images without label (unless that is allowed), a source that is not there, or none at all.
    """
    parts: list[tuple[str, list[Sample]]] = []
    left_out: dict[str, int] = {}
    for source in dict.fromkeys(sources):
        if source == SOURCE:
            if submit is None:
                raise ReinError(
                    f"'{SOURCE}' has no labels.",
                    "Write what its benchmark takes: --submit FILE.zip",
                    usage=True,
                )
            parts.append((source, find_samples(source, settings.data, need_labels=False)))
            continue
        found, alone = scorable_samples(source, settings.data)
        if alone and not allow_missing:
            _refuse(source, settings, alone)
        if alone:
            left_out[source] = len(alone)
        parts.append((source, found))
    samples = each_once(parts, settings.data)
    if not samples:
        raise ReinError("There is nothing to score: data.val is empty.", "Give --data NAME.", usage=True)
    return samples, left_out


def _refuse(source: str, settings: Settings, alone: Sequence[str]) -> None:
    try:
        find_samples(source, settings.data)
    except ReinError as error:
        hint = f"{error.hint} Or score the rest alone: --allow-missing"
        raise ReinError(error.message, hint, usage=error.usage) from None
    raise ReinError(f"{len(alone)} files of '{source}' have no partner.", "Score the rest: --allow-missing")


def _submission(path: Path | None, samples: Sequence[Sample]) -> Submission | None:
    if path is None:
        return None
    tested = [sample for sample in samples if sample.label is None]
    if not tested:
        raise ReinError(f"--submit is for {SOURCE}, which --data does not name.", usage=True)
    return Submission(path, tested)


# --- the run -----------------------------------------------------------------------------------------------


def _evaluate(
    predictor: Predictor,
    samples: list[Sample],
    evaluation: Evaluation,
    protocol: tuple[str | None, str | None, bool | None],
    outputs: Wanted,
    rank: Rank,
    certainty: bool,
) -> None:
    size, mode, tta = protocol
    total = len(rank.share(samples))
    with _writers() as write, console.progress("Evaluating", total=total) as advance:

        def on_image(scored: Scored) -> None:
            sample = scored.sample
            if outputs.out is not None:
                write(_write_map, map_of(outputs.out, scored.domain, sample), scored.prediction)
            if outputs.submission is not None and sample.label is None:
                write(outputs.submission.add, sample, scored.prediction)
            if outputs.report_file is not None:
                outputs.extremes.add(scored)
            advance(1, note=scored.domain)

        evaluate(predictor, samples, size=size, mode=mode, tta=tta, on_image=on_image, into=evaluation,
                 rank=rank, certainty=certainty)  # fmt: skip


def _write_map(path: Path, prediction: np.ndarray) -> None:
    write_png(path, prediction, mark=mark(MAKER))


@contextmanager
def _writers() -> Iterator[Callable[..., None]]:
    """`write(function, *arguments)` in threads; all is done at the end, and what failed is raised."""
    begun: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(WRITERS) as pool:

        def write(function: Callable[..., object], *arguments: Path | Sample | np.ndarray) -> None:
            begun.append(pool.submit(function, *arguments))
            while len(begun) > QUEUED:
                begun.popleft().result()

        yield write
        while begun:
            begun.popleft().result()


@contextmanager
def _told_if_stopped(
    predictor: Predictor,
    evaluation: Evaluation,
    checkpoint: Path,
    sources: Sequence[str],
    outputs: Wanted,
    rank: Rank,
    total: int,
) -> Iterator[None]:
    """Where a run ends early, show what it has, as partial; then the reason goes its way."""
    try:
        yield
    except (KeyboardInterrupt, ReinError) as reason:
        done = sum(domain.images for domain in evaluation.domains.values())
        if done and not rank.rank:
            result = report(predictor, evaluation, str(checkpoint), sources)
            show(result)
            show_certainty(result)
            _write_json(result, evaluation, outputs.json_file)
        if outputs.submission is not None:
            outputs.submission.discard()
        if isinstance(reason, KeyboardInterrupt):
            here = " in this process" if rank.world > 1 else ""
            raise KeyboardInterrupt(f"{done} of {total} images were scored{here}.") from None
        raise


def _deliver(
    result: dict[str, Any],
    evaluation: Evaluation,
    predictor: Predictor,
    outputs: Wanted,
    extremes: Sequence[Extremes],
) -> None:
    """Print and write what a finished evaluation has."""
    if result["domains"]:
        show(result)
        show_certainty(result)
    _write_json(result, evaluation, outputs.json_file)
    if outputs.report_file is not None:
        matrices = {name: domain.matrix for name, domain in evaluation.domains.items() if domain.images}
        text = page(result, matrices, predictor.classes, merge(extremes), predictor.settings.data)
        write_bytes(outputs.report_file, text.encode())
        console.note(f"Report: {outputs.report_file}")
    if outputs.submission is not None:
        count = outputs.submission.finish()
        used = evaluation.size or test_size(predictor.settings, SOURCE.split(":")[0])
        protocol = protocol_line({**result, "domains": {SOURCE: {"test_size": used}}})
        console.result(f"Submission: {count} files in '{outputs.submission.path}' ({protocol})")


def _write_json(result: dict[str, Any], evaluation: Evaluation, path: Path | None) -> None:
    if path is not None:
        content = {"made_by": mark(MAKER), **result, "per_image": image_matrices(evaluation)}
        write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())

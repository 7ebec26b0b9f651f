"""`rein eval`: a checkpoint in, scores per domain out; also label maps, a page, and the zip of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from reincli.commands import console, label_maps
from reincli.commands.certainty import show_certainty
from reincli.commands.evaluate_outputs import MAKER, Wanted, require_classes, require_free
from reincli.commands.evaluate_unknowns import prepare, run_unknowns
from reincli.commands.score_examples import Extremes, merge
from reincli.commands.score_page import page
from reincli.commands.score_table import protocol_line, show
from reincli.config import DataSettings, Settings, parse_size, test_size
from reincli.data.sources import Sample, each_once, find_samples, scorable_samples
from reincli.data.submission import ACDC, BENCHMARKS, Benchmark, Submission
from reincli.engine.backbone_files import used_backbone
from reincli.engine.checkpoint import read_checkpoint, settings_for
from reincli.engine.ranks import Rank, this_rank
from reincli.errors import ReinError
from reincli.media.outputs import mark
from reincli.media.whole_files import write_bytes
from reincli.prediction.evaluate import Scored, evaluate
from reincli.prediction.exported import is_exported, open_session
from reincli.prediction.opening import open_segmentor
from reincli.prediction.predict import Predictor
from reincli.prediction.results import Evaluation, image_matrices, report
from reincli.settings_files import build_settings, load_settings, read_config


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
    label_ids: bool = False,
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
    require_options(size, submit, label_ids, out)
    settings = chosen_settings(
        checkpoint, preset, config, sets or [], data_root, own, backbone=backbone, data=data or []
    )
    reads = [checkpoint, used_backbone(settings, backbone), config, own]
    given = {
        "backbone": backbone, "settings": settings, "device": rank.device(device), "precision": precision,
        "any_backbone": any_backbone,
    }  # fmt: skip
    if anomaly:
        others = {"--data": data, "--tta": tta, "--out": out, "--submit": submit, "--allow-missing": allow_missing,
                  "--calibration": calibration}  # fmt: skip
        unknown = prepare(anomaly, settings.data, reads, (json_file, report_file), others)
        return run_unknowns(opened(checkpoint, given), unknown, checkpoint, size=size, mode=mode, rank=rank)
    if calibration:
        require_single_views(tta or settings.test.tta)
    sources = [each for source in data or [] for each in corrupted_sources(source)]
    sources = sources or ([ACDC.source] if submit else list(settings.data.val))
    benchmark = _benchmark(sources) if submit else None
    samples, left_out = find_all(sources, settings, allow_missing, unscored=bool(submit or out))
    unlabelled = [each for each in samples if each.label is None]
    submission = Submission(submit, unlabelled, benchmark) if submit and benchmark else None
    outputs = Wanted(out, label_ids, json_file, report_file, submission)
    require_free(outputs, samples, reads)
    predictor = opened(checkpoint, given)
    require_classes(predictor.classes.names, checkpoint, outputs)
    evaluation = Evaluation(predictor.classes.names, left_out=left_out)
    with rank.group(), nullcontext() if rank.rank else outputs.at_work():
        if submission is not None and not rank.rank:
            submission.discard()  # of a run that was killed
        rank.gather(None)  # no other process writes before
        with _told_if_stopped(predictor, evaluation, checkpoint, sources, outputs, rank, len(samples)):
            _evaluate(predictor, samples, evaluation, (size, mode, tta or None), outputs, rank, calibration)
        extremes = rank.gather(outputs.extremes) if report_file else []
        rank.gather(None)  # the label maps of every process are written
        require_scored(evaluation, samples)
        result = report(predictor, evaluation, str(checkpoint), sources)
        if not rank.rank:
            _deliver(result, evaluation, predictor, outputs, extremes)
    return result


def require_options(size: str | None, submit: Path | None, label_ids: bool, out: Path | None) -> None:
    """ReinError for options that cannot be, whatever the settings are."""
    if size is not None:
        check_size(size)
    if submit is not None and submit.suffix != ".zip":
        raise ReinError(
            f"--submit '{submit}' does not end with .zip.",
            f"For example: --submit {submit.stem}.zip",
            usage=True,
        )
    if label_ids and out is None:
        raise ReinError(
            "--label-ids is about label maps that are written.", "Give --out DIR too.", usage=True
        )


def require_single_views(averaged: bool) -> None:
    """ReinError for a calibration of averages of views."""
    if averaged:
        raise ReinError(
            "--calibration is about single predictions; averages of views (--tta, test.tta) have no scores.",
            "Leave out one of them.",
            usage=True,
        )


def opened(checkpoint: Path, given: dict[str, Any]) -> Predictor:
    """The model, see `open_segmentor`; its remarks are told, and so is what it has to say on the way."""
    predictor = open_segmentor(checkpoint, **given)
    console.remarks(predictor.notes, predictor.doubts)
    predictor.tell = console.problem
    return predictor


def require_scored(evaluation: Evaluation, samples: Sequence[Sample]) -> None:
    """ReinError where images have labels and no pixel was scored: a table of nothing would look like a result."""
    labelled = any(sample.label is not None for sample in samples)
    if labelled and not any(domain.matrix.any() for domain in evaluation.domains.values()):
        raise ReinError(
            "Nothing could be scored: every pixel of every label is ignored.",
            "Look at what the labels hold: rein prepare-data NAME --check",
        )


def check_size(size: str) -> None:
    """ReinError for a size that is neither native nor WxH."""
    try:
        parse_size(size)
    except ValueError as error:
        raise ReinError(f"--size: {error}.", "Or native, the image's own size.", usage=True) from None


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
        raw["data"] |= described_data(own, data_root)
    return build_settings(raw, sets, options)


def described_data(own: Path, data_root: Path | None = None) -> dict[str, Any]:
    """What a file says of own datasets to score: the values of `[data]` that take the place of the run's.

    A dataset without a root of its own lies below `data_root`, or what the file says of that, or `data`: never where
    the model was trained.

    Raises:
        ReinError: the file cannot be read, or names nothing to score.
    """
    described = read_config(own).get("data", {})
    sources = described.get("val", [])
    if not isinstance(described.get("own"), dict) or not described["own"] or not sources:
        raise ReinError(
            f"'{own}' says of no own dataset what to score.",
            'It needs [data] with val = ["NAME:SPLIT"] and [data.own.NAME]: docs/own-data.md.',
            usage=True,
        )
    folder = Path(data_root or described.get("root") or DataSettings().root)
    datasets = {
        name: {**dataset, "root": dataset.get("root") or str(folder / name)}
        if isinstance(dataset, dict)
        else dataset
        for name, dataset in described["own"].items()
    }
    return {"own": datasets, "val": sources, "mean": described.get("mean")}


# --- what is scored ----------------------------------------------------------------------------------------


def corrupted_sources(source: str) -> list[str]:
    """'cityscapes-c:all' -> its five severities; every other source as it is."""
    return [f"cityscapes-c:severity{n}" for n in range(1, 6)] if source == "cityscapes-c:all" else [source]


def find_all(
    sources: Sequence[str], settings: Settings, allow_missing: bool, *, unscored: bool = False
) -> tuple[list[Sample], dict[str, int]]:
    """The images of all sources, and by source how many files are left out for want of a partner.

    `unscored`: those of a benchmark's test set, which have no labels, are wanted too.

    Raises:
        ReinError: images without label (unless that is allowed), a source that is not there, or none at all.
    """
    parts: list[tuple[str, list[Sample]]] = []
    left_out: dict[str, int] = {}
    for source in dict.fromkeys(sources):
        if source in BENCHMARKS:
            if not unscored:
                raise ReinError(
                    f"'{source}' has no labels.",
                    "Write what its benchmark takes, --submit FILE.zip, or label maps alone: --out DIR",
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


def _benchmark(sources: Sequence[str]) -> Benchmark:
    """The one benchmark whose test images are among the sources."""
    tested = [BENCHMARKS[source] for source in dict.fromkeys(sources) if source in BENCHMARKS]
    if len(tested) != 1:
        known = " or ".join(BENCHMARKS)
        named = " and ".join(each.source for each in tested) or "neither"
        raise ReinError(
            f"--submit is for {known}; --data names {named}.",
            "One zip is for one benchmark: --data NAME:test --submit FILE.zip",
            usage=True,
        )
    return tested[0]


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
    with label_maps.writers() as write, console.progress("Evaluating", total=total) as advance:

        def on_image(scored: Scored) -> None:
            sample = scored.sample
            if outputs.out is not None:
                path = outputs.out / label_maps.place(sample, scored.domain)
                write(label_maps.write_label_map, path, scored.prediction, outputs.label_ids)
            if outputs.submission is not None and sample.label is None:
                write(outputs.submission.add, sample, scored.prediction)
            if outputs.report_file is not None:
                outputs.extremes.add(scored)
            advance(1, note=scored.domain)

        evaluate(predictor, samples, size=size, mode=mode, tta=tta, on_image=on_image, into=evaluation,
                 rank=rank, certainty=certainty)  # fmt: skip


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
        here = " in this process" if rank.world > 1 else ""
        told = f"{done} of {total} images were scored{here}."
        if outputs.submission is not None:
            there, wanted = outputs.submission.collected(), len(outputs.submission.expected)
            told = f"{there} of {wanted} label maps were there; a submission is whole or none, so they are not kept."
            outputs.submission.discard()
        if isinstance(reason, KeyboardInterrupt):
            raise KeyboardInterrupt(told) from None
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
    if outputs.out is not None:
        kind = "labelIds" if outputs.label_ids else "class indices"
        console.note(f"Label maps ({kind}): '{outputs.out}'")
    if outputs.submission is not None:
        count = outputs.submission.finish()
        source = outputs.submission.benchmark.source
        used = evaluation.size or test_size(predictor.settings, source.split(":")[0])
        protocol = protocol_line({**result, "domains": {source: {"test_size": used}}})
        console.result(f"Submission: {count} files in '{outputs.submission.path}' ({protocol})")


def _write_json(result: dict[str, Any], evaluation: Evaluation, path: Path | None) -> None:
    if path is not None:
        content = {"made_by": mark(MAKER), **result, "per_image": image_matrices(evaluation)}
        write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())

"""`rein calibrate`: one temperature, fitted on labelled images, tried on others, and put into the checkpoint."""

from __future__ import annotations

from pathlib import Path

from reincli.commands import console
from reincli.commands.evaluate import check_size, chosen_settings, corrupted_sources, find_all
from reincli.engine.backbone_files import used_backbone
from reincli.engine.calibration import Calibration, write_calibrated
from reincli.engine.checkpoint import read_checkpoint
from reincli.errors import ReinError
from reincli.media.outputs import Outputs, at_work
from reincli.media.whole_files import version_of
from reincli.ops.calibration import COLDEST, HOTTEST
from reincli.prediction.calibrate import Fit, fit
from reincli.prediction.exported import is_exported
from reincli.prediction.opening import open_segmentor
from reincli.prediction.predict import Predictor


def run(
    checkpoint: Path,
    *,
    preset: str | None = None,
    config: Path | None = None,
    backbone: Path | None = None,
    data: list[str] | None = None,
    own: Path | None = None,
    out: Path | None = None,
    replace: bool = False,
    mode: str | None = None,
    size: str | None = None,
    data_root: Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    any_backbone: bool = False,
) -> float:
    """Fit, tell what it is worth, and write; returns the temperature.

    Raises:
        ReinError: a checkpoint that is calibrated already and may not be replaced, or cannot keep a temperature; too
            few images.
    """
    if size is not None:
        check_size(size)
    require_possible(checkpoint, out, replace)
    version = version_of(checkpoint)
    settings = chosen_settings(
        checkpoint, preset, config, [], data_root, own, backbone=backbone, data=data or []
    )
    sources = [each for source in data or settings.data.val for each in corrupted_sources(source)]
    samples, _ = find_all(sources, settings, False)
    if out is not None:
        files = [file for each in samples for file in (each.image, each.label)]
        read = [checkpoint, used_backbone(settings, backbone), config, own, *files]
        Outputs("calibrate", read).claim(out, "--out", replace=True)
        if out.is_file() and out.stat().st_size and not replace:
            message = f"--out '{out}' is there already."
            raise ReinError(message, "Write over it with --replace, or name another place.", usage=True)
    with at_work(out or checkpoint, "calibrate", file=True):
        predictor = open_segmentor(checkpoint, backbone=backbone, settings=settings, device=device,
                                   precision=precision, any_backbone=any_backbone)  # fmt: skip
        console.remarks(predictor.notes, predictor.doubts)
        predictor.tell = console.problem
        with console.progress("Calibrating", total=len(samples)) as advance:
            found = fit(
                predictor, samples, size=size, mode=mode, on_image=lambda domain: advance(1, note=domain)
            )
        show(found)
        if version_of(checkpoint) != version:
            raise ReinError(
                f"'{checkpoint}' was written anew while the temperature was fitted: it would be that of other weights.",
                "Give the command again when nothing writes the checkpoint any more.",
            )
        keep(checkpoint, out or checkpoint, found, sources, predictor)
    return found.temperature


def require_possible(checkpoint: Path, out: Path | None, replace: bool) -> None:
    """Refuse before anything is predicted what could not be written in the end."""
    if is_exported(checkpoint):
        raise ReinError(
            f"'{checkpoint}' is a file for another runtime; a temperature belongs into a checkpoint.",
            "Calibrate the checkpoint and export it again: the exported file takes the temperature along.",
            usage=True,
        )
    read = read_checkpoint(checkpoint)
    target = out or checkpoint
    if target.suffix == ".safetensors":
        raise ReinError(
            f"'{target}' holds tensors alone, no temperature.", "Give --out FILE.pth.", usage=True
        )
    if read.settings is None and out is None:
        raise ReinError(
            f"'{checkpoint}' is a checkpoint of the original's: it would become one of ours.",
            "Keep it as it is and write another: --out FILE.pth",
            usage=True,
        )
    if read.calibration is not None and not replace:
        raise ReinError(
            f"'{checkpoint}' is calibrated already: temperature {read.calibration.temperature:.4f}, fitted on "
            f"{', '.join(read.calibration.sources)}.",
            "Fit it anew with --replace.",
            usage=True,
        )


def show(found: Fit) -> None:
    """Print the temperature, and the calibration error of each held-out domain before and after."""
    console.result(
        f"Temperature {found.temperature:.4f}, fitted on {_images(found.fitted)}; "
        f"below, the {_images(found.held_out)} held out."
    )
    if not COLDEST * 1.01 < found.temperature < HOTTEST * 0.99:
        console.problem(
            f"The best temperature lies at the end of what is tried ({COLDEST} to {HOTTEST}): look at the labels."
        )
    columns = ["held out, %", "accuracy", "confidence", "after", "ECE", "ECE after"]
    rows = []
    for name, before in found.before.items():
        (accuracy, confidence), after = before.means(), found.after[name]
        values = (accuracy, confidence, after.means()[1], before.error(), after.error())
        rows.append([name, *("-" if value != value else f"{100 * value:.2f}" for value in values)])
    console.table(columns, rows, numbers=set(columns[1:]))
    before_it, after_it = found.errors()
    if not after_it < before_it:
        console.problem(
            "It does not help on the images held out: they are sure in another way than the others."
        )


def keep(checkpoint: Path, target: Path, found: Fit, sources: list[str], predictor: Predictor) -> None:
    """Write the temperature into the checkpoint, and say where it acts."""
    before, after = found.errors()
    calibration = Calibration(found.temperature, tuple(sources), found.fitted, found.held_out, before, after)
    write_calibrated(checkpoint, target, calibration, predictor.settings, predictor.classes)
    console.result(
        f"'{target}' has it now: calibration error {100 * before:.2f} -> {100 * after:.2f} % on images held out. "
        "Labels stay as they are; probabilities and confidence use it."
    )


def _images(count: int) -> str:
    return f"{count} image" + ("" if count == 1 else "s")

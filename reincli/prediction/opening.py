"""A model ready to predict, whatever kind of file holds it."""

from __future__ import annotations

from pathlib import Path

from reincli.config import Settings
from reincli.errors import ReinError
from reincli.prediction.exported import ExportedPredictor, is_exported
from reincli.prediction.predict import Predictor, load_segmentor
from reincli.settings_files import load_settings


def open_segmentor(
    checkpoint: Path | str,
    *,
    backbone: Path | str | None = None,
    settings: Settings | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    any_backbone: bool = False,
) -> Predictor:
    """As `predict.load_segmentor`, and files of `rein export` (`.onnx`, `.xml`), which need no backbone.

    An exported file has its precision; `device` may name one of onnxruntime's providers.

    Raises:
        ReinError: as `load_segmentor`; a runtime that is not installed; a precision that the file has not.
    """
    path = Path(checkpoint)
    if not is_exported(path):
        return load_segmentor(
            path,
            backbone=backbone,
            settings=settings,
            device=device,
            precision=precision,
            any_backbone=any_backbone,
        )
    if isinstance(settings, str):
        settings = load_settings(settings, None)
    predictor = ExportedPredictor(path, settings, device)
    if backbone is not None:
        predictor.notes.append(f"'{path.name}' holds its backbone: '{backbone}' is not read.")
    if precision not in ("auto", predictor.precision):
        raise ReinError(
            f"'{path}' is a file in {predictor.precision}; {precision} was asked for.",
            f"Export it anew: rein export CHECKPOINT --precision {precision}",
            usage=True,
        )
    return predictor

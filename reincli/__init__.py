"""Semantic segmentation that survives a change of domain: Rein adapters on a frozen foundation model.

The Python API is loaded when it is used: importing this package imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reincli.model.attach import attach_rein
    from reincli.model.rein import ReinAdapter as Rein
    from reincli.prediction.opening import open_segmentor as load_segmentor
    from reincli.prediction.predict import Prediction, Predictor

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "Rein", "__version__", "attach_rein", "load_segmentor"]


def __getattr__(name: str) -> Any:
    if name in ("Prediction", "Predictor"):
        from reincli.prediction import predict

        return getattr(predict, name)
    if name == "load_segmentor":
        from reincli.prediction.opening import open_segmentor

        return open_segmentor
    if name == "Rein":
        from reincli.model.rein import ReinAdapter

        return ReinAdapter
    if name == "attach_rein":
        from reincli.model.attach import attach_rein

        return attach_rein
    raise AttributeError(f"module 'reincli' has no attribute '{name}'")

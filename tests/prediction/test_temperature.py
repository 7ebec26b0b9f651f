"""A temperature goes with the model: into a predictor, and into a file for another runtime."""

from __future__ import annotations

import json
from pathlib import Path

import tiny

from reincli.data.labels import CITYSCAPES
from reincli.prediction.export import Request, describe
from reincli.prediction.exported import read_about
from reincli.prediction.predict import LoadedModel


def test_an_exported_file_says_its_temperature():
    loaded = LoadedModel(tiny.model(tiny.settings()), CITYSCAPES, tiny.settings(), [], 1.7)
    request = Request(Path("m.onnx"), "onnx", (64, 64), 1, "scores", "nchw", "fp32")
    said = describe(loaded, request)
    assert read_about(Path("m.onnx"), json.dumps(said)).temperature == 1.7
    del said["temperature"]  # files of before
    assert read_about(Path("m.onnx"), json.dumps(said)).temperature == 1

"""`rein export`: a file that another runtime opens, proven, used like a checkpoint; wrong input in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from terminal import told

from reincli.commands import export
from reincli.data.labels import CITYSCAPES
from reincli.engine.checkpoint import load_frozen
from reincli.engine.weight_files import write_file
from reincli.errors import ReinError
from reincli.media.images import read_image, write_png
from reincli.prediction import export as prediction_export
from reincli.prediction import export_proof, exported, exported_seal
from reincli.prediction.evaluate import Evaluation
from reincli.prediction.exported import ExportedPredictor
from reincli.prediction.exported_about import read_about
from reincli.prediction.opening import open_segmentor
from reincli.prediction.results import report
from reincli.settings_files import build_settings


@pytest.fixture
def files(tmp_path):
    """A checkpoint whose model is complete: nothing of it lies elsewhere."""
    torch.manual_seed(0)
    settings = tiny.settings("model.train_backbone=true")
    model = tiny.model(settings)
    write_file(tmp_path / "last.pth", tiny.checkpoint_content(model, settings, CITYSCAPES, 1, None))
    rng = np.random.default_rng(0)
    (tmp_path / "frames").mkdir()
    for number in range(2):
        write_png(tmp_path / "frames" / f"{number}.png", rng.integers(0, 256, (70, 100, 3), dtype=np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format_": "onxx"}, "--format 'onxx' is none of onnx, openvino, torch"),
        ({"what": "label"}, "--what 'label'"),
        ({"layout": "hwc"}, "--layout 'hwc'"),
        ({"precision": "bf16"}, "--format onnx has no --precision bf16"),
        ({"size": "native"}, "--size 'native' is not WIDTHxHEIGHT in pixels; a file has one size"),
        ({"size": "0x0"}, "--size '0x0' is not WIDTHxHEIGHT"),
        ({"size": "100x64"}, "does not divide by 32"),
        ({"batch": "many"}, "neither a number"),
        ({"batch": "²"}, "neither a number"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(files, options, said):
    with pytest.raises(ReinError, match=said) as caught:
        export.run(files / "last.pth", **options)
    assert caught.value.usage
    assert sorted(each.name for each in files.iterdir()) == ["frames", "last.pth"]


def test_another_backbone_is_taken_knowingly_as_the_refusal_says(tmp_path):
    settings = tiny.settings()
    model = tiny.model(settings)
    tiny.write_backbone(tmp_path / "own.pth", settings)
    fingerprint, _ = load_frozen(model, tmp_path / "own.pth")
    content = tiny.checkpoint_content(model, settings, CITYSCAPES, 1, None, fingerprint)
    write_file(tmp_path / "last.pth", content)
    other = {name: value + 1 for name, value in model.backbone.body.state_dict().items()}
    write_file(tmp_path / "other.pth", other)
    words = ("export", tmp_path / "last.pth", "--backbone", tmp_path / "other.pth", "--size", "9x9")
    assert "--any-backbone" in told(*words, code=1)
    assert "does not divide" in told(*words, "--any-backbone", code=2)


def test_what_is_there_stays(files):
    (files / "last.onnx").write_text("mine")
    with pytest.raises(ReinError, match="is there already"):
        export.run(files / "last.pth")
    assert (files / "last.onnx").read_text() == "mine"
    with pytest.raises(ReinError, match="exported already"):
        export.run(files / "last.onnx")
    with pytest.raises(ReinError, match=r"must end in \.onnx"):
        export.run(files / "last.pth", out=files / "x.pt")


@pytest.mark.slow
def test_a_torch_program_is_written_and_proven(files):
    target = export.run(files / "last.pth", format_="torch", what="scores", batch="dynamic")
    extra = {"rein.json": ""}
    program = torch.export.load(target, extra_files=extra).module()
    assert json.loads(extra["rein.json"])["size"] == [64, 64]
    assert program(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 19, 64, 64)


@pytest.mark.slow
def test_a_file_that_is_too_far_off_is_not_kept(files, monkeypatch):
    monkeypatch.setitem(export_proof.BOUNDS, "fp32", (-1.0, 0.0))
    with pytest.raises(ReinError, match="too far from PyTorch"):
        export.run(files / "last.pth", format_="torch", what="scores")
    assert sorted(each.name for each in files.iterdir()) == ["frames", "last.pth"]


def needs_onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["2", "dynamic"])
def test_an_onnx_file_is_just_another_model(files, batch):
    needs_onnx()
    target = export.run(files / "last.pth", what="scores", batch=batch, images=files / "frames")
    exported, plain = (
        open_segmentor(target),
        open_segmentor(files / "last.pth", device="cpu", precision="fp32"),
    )
    assert isinstance(exported, ExportedPredictor)
    assert exported.classes == plain.classes
    image = torch.randint(0, 256, (3, 64, 150), dtype=torch.uint8)  # three windows: one more than the batch
    ours, theirs = exported.class_maps(image, "slide"), plain.class_maps(image, "slide")
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4
    small = exported.predict(np.zeros((40, 50, 3), np.uint8))
    assert small.label.shape == (40, 50)
    assert any("filled up" in note for note in exported.notes)
    with pytest.raises(ReinError, match="takes images of 64x64"):
        exported.predict(np.zeros((70, 150, 3), np.uint8), mode="whole")
    assert not changed(target)
    turn_a_bit(target)  # runtimes compute with it
    assert changed(target)


@pytest.mark.slow
def test_labels_alone_do_too(files):
    needs_onnx()
    target = export.run(files / "last.pth", layout="nhwc")
    exported, plain = (
        open_segmentor(target),
        open_segmentor(files / "last.pth", device="cpu", precision="fp32"),
    )
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (exported.predict(image).label == plain.predict(image).label).mean() > 0.999
    with pytest.raises(ReinError, match="is a file in fp32"):
        open_segmentor(target, precision="bf16")


@pytest.mark.parametrize(
    ("text", "said"), [(None, "was not written by"), ("{", "cannot be read"), ("{}", "cannot be read")]
)
def test_a_file_that_is_not_ours_says_so(tmp_path, text, said):
    with pytest.raises(ReinError, match=said):
        read_about(tmp_path / "m.onnx", text)


ABOUT = {
    "format": 1, "size": [8, 8], "batch": 1, "answer": "labels", "layout": "nchw", "precision": "fp32",
    "classes": ["a", "b"], "colors": [[0, 0, 0], [9, 9, 9]], "temperature": 1.0, "settings": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"size": [-8, 8]}, {"size": [8]}, {"size": [True, 8]}, {"size": 8}, {"batch": "x"},
        {"batch": 0}, {"batch": 1.5}, {"answer": "more"}, {"layout": "chwn"}, {"precision": 7}, {"classes": [0, 1]},
        {"classes": ["a", "a"]}, {"classes": []}, {"colors": [[0, 0, 300], [0, 0, 0]]}, {"colors": ["red", "blu"]},
        {"colors": [[0, 0, 0]]}, {"temperature": float("nan")}, {"temperature": 0}, {"settings": 5},
    ],
)  # fmt: skip
def test_what_a_file_says_of_itself_is_checked(tmp_path, change):
    assert read_about(tmp_path / "m.onnx", json.dumps(ABOUT)).classes.names == ("a", "b")
    with pytest.raises(ReinError, match="says of itself cannot be read"):
        read_about(tmp_path / "m.onnx", json.dumps(ABOUT | change))


def write_brightest(path: Path, about: dict[str, object], kind: str = "UINT8", sealed: bool = False) -> Path:
    """An ONNX file that answers with the brightest channel of (1, 3, 8, 8), whatever it says of itself."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, getattr(onnx.TensorProto, kind)
    axis = onnx.numpy_helper.from_array(np.array([1]), "axis")
    node = helper.make_node("ReduceMax", ["images", "axis"], ["labels"], keepdims=0)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("images", number, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("labels", number, [1, 8, 8])], [axis],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    seal = {exported_seal.NAME: exported_seal.OPEN} if sealed else {}
    helper.set_model_props(model, {"rein": json.dumps(about), **seal})
    onnx.save(model, str(path))
    if sealed:
        exported_seal.seal(path)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": [16, 8]}, "images of 1x3x8x16 bytes, and takes 1x3x8x8"),
        ({"layout": "nhwc"}, "images of 1x8x8x3 bytes"),
        ({"batch": 4}, "images of 4x3x8x8 bytes"),
        ({"answer": "scores"}, "answers of 1x2x8x8, and gives 1x8x8"),
        ({"answer": "queries"}, r"answers of 1x\?x3, 1x\?x\?x\?, and gives 1x8x8"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, change, said):
    with pytest.raises(ReinError, match=said):
        open_segmentor(write_brightest(tmp_path / "m.onnx", ABOUT | change))


def test_a_file_that_takes_no_bytes_is_refused(tmp_path):
    with pytest.raises(ReinError, match="takes 1x3x8x8 others"):
        open_segmentor(write_brightest(tmp_path / "m.onnx", ABOUT, "FLOAT"))


def test_an_answer_that_is_no_class_is_an_error(tmp_path):
    model = open_segmentor(write_brightest(tmp_path / "m.onnx", ABOUT))
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0] = 1
    assert model.predict(image).label[0, 0] == 1
    image[0, 0] = 2  # of two classes
    with pytest.raises(ReinError, match="no number or no class"):
        model.predict(image)


def test_what_an_exported_file_does_not_take_is_said(tmp_path):
    target = write_brightest(tmp_path / "m.onnx", ABOUT)
    output = told("bench", "--checkpoint", target, "--what", "slide", "--batch", "4", code=2)
    assert "--what, --batch cannot be had" in " ".join(output.split())
    model = open_segmentor(target, backbone=tmp_path / "b.pth")
    assert "m.onnx' holds its backbone" in model.notes[-1]


def test_windows_of_another_setting_are_told_with_those_of_the_file(tmp_path):
    model = open_segmentor(write_brightest(tmp_path / "m.onnx", ABOUT))
    with pytest.raises(ReinError, match="takes images of 8x8") as caught:  # settings: windows of 512
        model.predict(np.zeros((16, 16, 3), np.uint8), mode="slide")
    assert "--mode slide --set test.window=8" in caught.value.hint


def test_a_file_for_which_memory_is_short_is_not_called_damaged(tmp_path, monkeypatch):
    target = write_brightest(tmp_path / "m.onnx", ABOUT)

    def short(*_: object, **__: object) -> None:
        raise Exception("[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:std::bad_alloc")

    monkeypatch.setattr("onnxruntime.InferenceSession", short)
    with pytest.raises(ReinError, match="Memory ran out while onnxruntime opened") as caught:
        open_segmentor(target)
    assert "damaged" not in str(caught.value)


def test_what_onnx_cannot_serialise_is_a_sentence(tmp_path):
    request = prediction_export.Request(tmp_path / "m.onnx", "onnx", (8, 8), 1, "labels", "nchw", "fp32")
    with (
        pytest.raises(ReinError, match="cannot be written as fp32: Failed to serialize proto"),
        prediction_export.serialized(request),
    ):
        raise ValueError("Failed to serialize proto")
    with pytest.raises(OSError, match="full"), prediction_export.serialized(request):  # told by the caller
        raise OSError(28, "full")


def test_a_file_that_its_runtime_cannot_run_is_a_sentence(tmp_path):
    model = open_segmentor(write_brightest(tmp_path / "m.onnx", ABOUT))
    with pytest.raises(ReinError, match="onnxruntime cannot run the file"):
        model.session.run(np.zeros((1, 3, 9, 8), np.uint8))


def test_only_images_of_a_folder_are_taken(files):
    (files / "frames" / "0.txt").write_text("what is on the picture")
    assert [each.name for each in export.pictures(files / "frames")] == ["0.png", "1.png"]


def test_weights_beside_the_file_are_not_written_over(files):
    for name in ("last.bin", "last.onnx.data"):
        (files / name).write_bytes(b"mine")
    with pytest.raises(ReinError, match=r"last\.bin' is there already"):
        export.run(files / "last.pth", format_="openvino")
    with pytest.raises(ReinError, match=r"last\.onnx\.data' is there already"):
        export.run(files / "last.pth")
    (files / "last.bin").unlink()
    (files / "last.bin").symlink_to(files / "last.pth")
    with pytest.raises(ReinError, match="a file that this command reads"):
        export.run(files / "last.pth", format_="openvino", force=True)
    assert (files / "last.onnx.data").read_bytes() == b"mine"


def test_devices_and_links_that_lead_nowhere_are_refused(files):
    (files / "null.onnx").symlink_to("/dev/null")
    (files / "loop.onnx").symlink_to("loop.onnx")
    with pytest.raises(ReinError, match="'/dev/null' is a device"):
        export.run(files / "last.pth", out=files / "null.onnx", force=True)
    with pytest.raises(ReinError, match="leads to itself"):
        export.run(files / "last.pth", out=files / "loop.onnx", force=True)
    assert (files / "loop.onnx").is_symlink()


def test_a_full_disk_is_a_sentence_for_openvino_too(tmp_path, monkeypatch):
    def save_model(*_: object, **__: object) -> None:
        raise RuntimeError("Exception from src/x.cpp:1:\nbasic_ios::clear: iostream error")

    fake = SimpleNamespace(
        convert_model=lambda path: SimpleNamespace(set_rt_info=print), save_model=save_model
    )
    monkeypatch.setattr(prediction_export, "runtime_module", lambda name: fake)
    request = prediction_export.Request(tmp_path / "m.xml", "openvino", (8, 8), 1, "labels", "nchw", "fp32")
    with pytest.raises(
        ReinError, match=r"OpenVINO cannot write .*: basic_ios::clear: iostream error"
    ) as caught:
        prediction_export.write_openvino(tmp_path / "m.onnx", tmp_path / "m.xml", request, {})
    assert "free space" in caught.value.hint


@pytest.mark.parametrize(
    "words", [("visualize", "{frames}", "--checkpoint", "{model}", "--out", "{out}", "-q")]
)
def test_a_file_that_was_changed_is_doubted_with_quiet_too(files, words):
    target = write_brightest(files / "m.onnx", ABOUT | {"size": [8, 8]}, sealed=True)
    places = {"frames": files / "frames", "model": target, "out": files / "out"}
    small = np.zeros((8, 8, 3), np.uint8)
    for number in range(2):
        write_png(files / "frames" / f"{number}.png", small)
    words = [each.format(**places) for each in words]
    assert "not as rein export wrote it" not in told(*words)
    content = target.read_bytes()
    target.write_bytes(content.replace(b"ReduceMax", b"ReduceMin"))
    assert "not as rein export wrote it" in told(*words)
    model = open_segmentor(target)
    assert model.doubts
    assert set(model.doubts) <= set(model.notes)
    result = report(model, Evaluation(model.classes.names), "m.onnx")
    assert result["doubts"] == model.doubts


@pytest.mark.parametrize("place", [b"images", b'"roadside'])
def test_a_text_that_is_no_utf8_is_a_sentence(tmp_path, place):
    target = write_brightest(tmp_path / "m.onnx", ABOUT | {"classes": ["roadside", "b"]})
    content = target.read_bytes()
    assert place in content
    target.write_bytes(content.replace(place, b"\xff" + place[1:]))
    with pytest.raises(ReinError, match=r"m.onnx"):
        open_segmentor(target)


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    target = write_brightest(tmp_path / "m.onnx", ABOUT)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(exported, "weights_beside", refuse)
    with pytest.raises(ReinError, match="No permission to read"):
        open_segmentor(target)


def test_what_is_there_and_no_file_is_said_to_be_that(tmp_path):
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(ReinError) as caught:
        open_segmentor(tmp_path / "m.onnx")
    assert "is a folder" in caught.value.hint
    (tmp_path / "gone.onnx").symlink_to("nowhere.onnx")
    with pytest.raises(ReinError) as caught:
        open_segmentor(tmp_path / "gone.onnx")
    assert "is a link to 'nowhere.onnx'" in caught.value.hint


@pytest.mark.parametrize(("out", "example"), [("", "last.onnx"), (".onnx", "onnx.onnx"), ("x.pt", "x.onnx"),
                                              ("frames", "frames/last.onnx")])  # fmt: skip
def test_the_example_for_out_is_one_that_is_taken(files, monkeypatch, out, example):
    monkeypatch.chdir(files)
    with pytest.raises(ReinError) as caught:
        export.checked_target(Path("last.pth"), Path(out), "onnx", False)
    assert caught.value.hint == f"For example: --out {example}"
    assert export.checked_target(Path("last.pth"), Path(example), "onnx", False) == Path(example)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ReinError, match="There is no file"):
        open_segmentor(tmp_path / "m.onnx")


def turn_a_bit(path: Path) -> None:
    """Of a number in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def changed(target: Path) -> bool:
    """Whether a file is said to be another than was written."""
    return any("not as rein export wrote it" in note for note in open_segmentor(target).notes)


@pytest.mark.slow
def test_a_bit_that_turns_in_the_weights_beside_it_is_noticed(files):
    for name in ("onnx", "onnxscript", "openvino"):
        pytest.importorskip(name)
    target = export.run(files / "last.pth", format_="openvino", what="scores")
    assert not changed(target)
    (files / "elsewhere").mkdir()
    link = files / "elsewhere" / "linked.xml"
    link.symlink_to(target)  # its weights lie beside the file
    assert not changed(link)
    turn_a_bit(target.with_suffix(".bin"))
    assert changed(target)
    assert changed(link)


@pytest.mark.slow
def test_weights_of_which_a_smaller_file_was_made_are_not_kept(files, monkeypatch):
    """Beyond 2 GB they lie beside the graph; in fp16 it holds its own."""
    needs_onnx()
    save = torch.onnx.ONNXProgram.save
    monkeypatch.setattr(
        torch.onnx.ONNXProgram, "save", lambda program, path: save(program, path, external_data=True)
    )
    target = export.run(files / "last.pth", what="scores")
    assert {each.name for each in files.iterdir()} == {"last.pth", "frames", "last.onnx", "last.onnx.data"}
    assert not changed(target)
    small = export.run(files / "last.pth", what="scores", precision="fp16", out=files / "small.onnx")
    assert not (files / "small.onnx.data").exists()
    assert not changed(small)


@pytest.mark.slow
def test_the_example_of_the_documentation_needs_nothing_of_ours(files):
    needs_onnx()
    target = export.run(files / "last.pth")
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    script, out = files / "example.py", files / "out.png"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), str(target), str(files / "frames" / "0.png"), str(out)],
        capture_output=True, text=True, cwd=files,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "%" in done.stdout
    assert "reincli" not in code
    assert read_image(out).shape == (64, 64, 3)


@pytest.mark.slow
def test_a_file_is_measured_beside_pytorch(files):
    needs_onnx()
    target = export.run(files / "last.pth", what="scores")
    output = told("bench", "--checkpoint", target, "--runs", "2", "--json", files / "speed.json")
    assert "onnxruntime" in output
    rows = json.loads((files / "speed.json").read_text())["rows"]
    assert rows[0]["runtime"] == "PyTorch"
    assert rows[-1]["runtime"] == "onnxruntime"
    assert all(row["least"] > 0 for row in rows)


@pytest.mark.slow
def test_attention_with_heads_in_the_batch_is_written(tmp_path):
    """SAM's, which the ONNX exporter cannot write as it runs."""
    needs_onnx()
    torch.manual_seed(0)
    raw = {**tiny.RAW["model"], "backbone": {"name": "samvit_base_patch16_224"}, "train_backbone": True}
    settings = build_settings({**tiny.RAW, "model": raw})
    content = tiny.checkpoint_content(tiny.model(settings), settings, CITYSCAPES, 1, None)
    write_file(tmp_path / "last.pth", content)
    assert export.run(tmp_path / "last.pth", what="scores", size="64x64").is_file()


@pytest.mark.parametrize("nested", [False, True])
def test_what_the_exporter_says_is_the_cause(nested):
    def trace() -> None:
        try:
            raise AssertionError("only 4D query is supported")
        except AssertionError as error:
            if nested:
                raise RuntimeError("\x1b[96mThis is step 3/3\x1b[0m. Next steps: ...") from error
            raise

    with pytest.raises(ReinError, match="cannot write this model: only 4D query is supported"):
        prediction_export.refused_as_one_sentence(trace)

"""What `rein bench` measures: real work, counted rightly, cut into parts; memory that runs out ends a row alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import tiny
import torch
from typer.testing import CliRunner

from reincli.bench import measure as measuring
from reincli.bench import speed
from reincli.bench.measure import Plan, Row, measure
from reincli.bench.speed import matrix_rate, packed_product
from reincli.bench.stopwatch import PARTS, Stopwatch, watching
from reincli.cli import app
from reincli.commands import bench as command
from reincli.errors import ReinError
from reincli.ops import deformable
from reincli.ops.parts import heard_by, part

CPU = torch.device("cpu")


def plan(**changes) -> Plan:
    chosen = {
        "settings": tiny.settings("train.points=64"), "device": CPU, "what": measuring.WORK, "batches": (1,),
        "precisions": ("fp32",), "size": (96, 64), "runs": 2, "seconds": 5.0,
    }  # fmt: skip
    return Plan(**{**chosen, **changes})


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch):
    monkeypatch.setitem(speed.SIDE, "cpu", 64)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(measure(plan()))


def test_each_row_has_its_numbers(rows):
    assert [(row.what, row.size) for row in rows] == [
        ("inference", "64x64"), ("slide", "96x64"), ("training", "64x64")
    ]  # fmt: skip
    for row in rows:
        assert not row.failure
        assert row.runs == 2
        assert 0 < row.least <= row.median <= row.p90
        assert row.images == pytest.approx(1 / row.median)
        assert row.flops > 1e6
        assert row.share == pytest.approx(row.flops / row.median / row.rate)


@pytest.mark.parametrize("tune", ["rein", "frozen", "full"])
def test_heads_with_queries_of_their_own_are_measured_too(tune):
    settings = tiny.settings("train.points=64", f"model.tune={tune}", "model.adapter.link_features=false")
    rows = list(measure(plan(settings=settings, runs=1)))
    assert [row.failure for row in rows] == ["", "", ""]
    assert all(row.flops > 1e6 for row in rows)


def test_parts_are_all_of_the_work(rows):
    model = {"backbone", "adapters", "pixel decoder", "mask decoder"}
    assert set(rows[0].parts) == set(rows[1].parts) == model | {"output", "other"}
    assert set(rows[2].parts) == model | {"matching", "losses", "optimiser", "other"}
    for row in rows:
        assert row.parts["other"] < 0.5 * sum(row.parts.values())


def test_the_plain_head_is_a_part_of_its_own():
    settings = tiny.settings("train.points=64", "model.head.kind=plain")
    rows = list(measure(plan(settings=settings, runs=1)))
    model = {"backbone", "adapters", "plain decoder"}
    assert [row.failure for row in rows] == ["", "", ""]
    assert set(rows[0].parts) == set(rows[1].parts) == model | {"output", "other"}
    assert set(rows[2].parts) == model | {"matching", "losses", "optimiser", "other"}
    for row in rows:
        assert row.parts["backbone"] > 0.02 * sum(row.parts.values())


def test_parts_sum_to_the_whole(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr("reincli.bench.stopwatch.time.perf_counter", lambda: float(next(ticks)))
    watch = Stopwatch(CPU)
    watch.cut()  # 0
    with heard_by(watch), part("a"), part("b"):  # 1, 2
        watch.become("c")  # 3
    watch.cut()  # b over: 4, a over: 5, here: 6
    assert watch.seconds() == {"other": 2.0, "a": 2.0, "b": 1.0, "c": 1.0}
    with part("unheard"):
        pass
    assert len(watch.cuts) == 7


def test_the_backward_pass_belongs_to_the_parts(rows):
    """Backward takes about twice the forward pass: it is not the losses', where it is called."""
    parts = rows[2].parts
    assert parts["losses"] < 0.5 * sum(parts.values())
    watch = Stopwatch(CPU)
    weight = torch.ones(3, requires_grad=True)
    inner = watch.timed("backbone", lambda given: given * weight)
    outer = watch.timed("mask decoder", lambda given: given.exp())
    outer(inner(torch.ones(3))).sum().backward()
    order = [name for name, _ in watch.cuts]
    assert order == ["backbone", "other", "mask decoder", "other", "mask decoder", "backbone"]


def test_the_backward_pass_of_a_module_is_booked_as_its_own():
    """What a later part hands on (the mask features stand in the predictions) stays its maker's."""
    model, watch = tiny.model(tiny.settings()).train(), Stopwatch(CPU)
    booked: dict[str, set[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            module = name.partition(".")[0]
            parameter.register_post_accumulate_grad_hook(
                lambda _, module=module: booked.setdefault(module, set()).add(watch.stack[-1])
            )
    with watching(model, watch):
        found = model(model.normalise(torch.rand(1, 3, 64, 64)))
        parts = [*found.class_logits, *found.mask_embeddings, found.mask_features]
        sum(each.square().sum() for each in parts).backward()
    assert booked == {name: {PARTS[name]} for name in ("rein", "pixel_decoder", "mask_decoder")}


def test_the_rate_is_the_best_of_what_multiplies_here():
    assert matrix_rate("fp32", CPU) > 1e9
    packed = packed_product(torch.randn(64, 32), torch.randn(32, 48))
    if packed is not None:  # of builds with oneDNN
        left, right = torch.randn(64, 32), torch.randn(32, 48)
        torch.testing.assert_close(packed_product(left, right)(), left @ right)


def test_the_rate_is_measured_on_the_gpu_that_was_asked_for(monkeypatch):
    at, current = [], [0]

    class Chosen:
        def __init__(self, device):
            self.index = device.index

        def __enter__(self):
            current.append(self.index)

        def __exit__(self, *error):
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", Chosen)
    monkeypatch.setattr(measuring, "matrix_rate", lambda precision, device: at.append(current[-1]) or 1.0)
    monkeypatch.setattr(measuring, "_row", lambda plan, row, base: row)
    list(measure(plan(device=torch.device("cuda:1"))))
    assert at == [1]  # events are recorded on the current GPU: of another one they would measure nothing


def test_what_a_training_says_is_in_its_row(monkeypatch):
    usual = measuring.new_run

    def telling(*given, note, **options):
        note("The training passes could not be recorded (why): they run one launch after another.")
        return usual(*given, note=note, **options)

    monkeypatch.setattr(measuring, "new_run", telling)
    found = list(measure(plan(what=("training",), runs=1, by_part=False)))
    assert found[0].note.startswith("The training passes could not be recorded (why)")


def test_watching_leaves_the_model_as_it_was():
    model = tiny.model(tiny.settings())
    before = [set(vars(module)) for module in model.modules()]
    measuring.by_part(model, lambda watch: model(torch.zeros(1, 3, 64, 64)), CPU)
    assert [set(vars(module)) for module in model.modules()] == before


def test_flops_are_the_same_in_whatever_form_attention_samples(monkeypatch):
    model = tiny.model(tiny.settings()).train()
    images = torch.randn(2, 3, 64, 64)

    def step() -> None:
        predictions = model(images)
        (predictions.class_logits.sum() + predictions.mask_embeddings.sum()).backward()

    sparse = speed.count_flops(step)
    monkeypatch.setattr("reincli.model.pixel_decoder.deformable_attention", deformable.sample_plain)
    assert speed.count_flops(step) == sparse


def test_attention_is_counted_on_the_cpu():
    query = torch.randn(1, 2, 16, 8, requires_grad=True)

    def attend() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, query, query)

    forward = 2 * (2 * 2 * 16 * 16 * 8)  # two products of (16, 8) x (8, 16), two heads
    with torch.no_grad():
        assert speed.count_flops(attend) == forward
    assert speed.count_flops(lambda: attend().sum().backward()) == forward * 7 // 2


def test_memory_that_runs_out_ends_one_row(monkeypatch):
    step = measuring.train_step

    def tight(run, slices):
        if run.slice_size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(run, slices)

    monkeypatch.setattr(measuring, "train_step", tight)
    found = list(measure(plan(what=("training",), batches=(2, 1), runs=1, by_part=False)))
    assert [row.failure for row in found] == ["out of memory", ""]
    assert found[0].median is None
    assert found[1].runs == 1


def test_a_batch_that_was_halved_is_no_row_of_that_batch(monkeypatch):
    told = measuring.Predictor._told

    def tight(self, windows, form):
        if len(windows) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return told(self, windows, form)

    monkeypatch.setattr(measuring.Predictor, "_told", tight)
    found = list(measure(plan(what=("inference", "slide"), batches=(2,), runs=1, by_part=False)))
    assert found[0].failure == "out of memory"
    assert found[1].note.startswith("Out of memory with")  # windows: it goes on with fewer, and says so
    assert found[1].runs == 1


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(run, slices):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(measuring, "train_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(measure(plan(what=("training",))))


def test_nine_of_ten_calls_are_within_the_p90():
    assert measuring._p90([float(n) for n in range(1, 11)]) == 9.0
    assert measuring._p90([2.0]) == 2.0


def test_timing_ends_with_its_budget(monkeypatch):
    clock = itertools.count(step=1.0)
    monkeypatch.setattr("reincli.bench.speed.time.perf_counter", lambda: float(next(clock)))
    assert len(speed.timings(lambda: None, CPU, 50, 10.0)) < 6
    assert len(speed.timings(lambda: None, CPU, 50, 0.0)) == 1


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(command_toml())
    return path


def command_toml() -> str:
    from reincli.settings_files import to_toml

    return to_toml(tiny.settings("train.points=64"))


def test_the_command_prints_tables_and_writes_json(config, tmp_path):
    file = tmp_path / "speed.json"
    args = [
        "bench",
        "--config",
        str(config),
        "--device",
        "cpu",
        "--runs",
        "1",
        "--what",
        "inference,training",
    ]
    result = CliRunner().invoke(app, [*args, "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "images/s" in result.stdout
    assert "Share of time by part" in result.stdout
    assert "samples/s" in result.stderr
    written = json.loads(file.read_text())
    assert written["complete"]
    assert written["weights"] == "random"
    assert [row["what"] for row in written["rows"]] == ["inference", "training"]
    assert {"median_s", "min_s", "p90_s", "images_per_s", "peak_bytes", "flops", "share", "parts_s"} <= set(
        written["rows"][0]
    )


def test_weights_from_files(tmp_path):
    tiny.write_backbone(tmp_path / "backbone.pth", tiny.settings())
    tiny.write_checkpoint(tmp_path / "head.pth", tiny.settings())
    args = ["--checkpoint", str(tmp_path / "head.pth"), "--backbone", str(tmp_path / "backbone.pth")]
    result = CliRunner().invoke(
        app, ["bench", *args, "--what", "inference", "--runs", "1", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    assert "head.pth" in result.stdout


def test_what_is_done_is_shown_when_interrupted(config, tmp_path, monkeypatch):
    def interrupted(plan):
        yield Row("inference", 1, "fp32", "64x64", 1, 0.1, 0.1, 0.1, 10.0, 2**20, 10**9, 1e10, 1.0, 0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure", interrupted)
    file = tmp_path / "speed.json"
    result = CliRunner().invoke(
        app, ["bench", "--config", str(config), "--device", "cpu", "--json", str(file)]
    )
    assert result.exit_code == 130
    assert "1 of 3 rows were measured" in result.stderr
    assert "64x64" in result.stdout
    assert not json.loads(file.read_text())["complete"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--what", "trainin"], "Did you mean 'training'"),
        (["--batch", "1,x"], "not a list of positive numbers"),
        (["--batch", "0"], "not a list of positive numbers"),
        (["--size", "big"], "size 'big' is neither"),
        (["--precision", "fp8"], "No precision is called 'fp8'"),
        (["--batch", ","], "names nothing"),
        (["--preset", "none"], "No preset"),
    ],
)
def test_wrong_use_is_said(args, said):
    result = CliRunner().invoke(app, ["bench", "--device", "cpu", *args])
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")


def test_the_image_for_windows_is_the_settings_own():
    from reincli.settings_files import load_settings

    assert command.slide_size(load_settings("citys2acdc"), None) == (1920, 1080)
    assert command.slide_size(load_settings("citys2acdc"), "2048x1024") == (2048, 1024)
    assert command.slide_size(tiny.settings("data.val=[]"), None) == (128, 64)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ReinError, match="does not divide"):
        list(measure(plan(settings=tiny.settings("train.accumulate=2"), what=("training",))))

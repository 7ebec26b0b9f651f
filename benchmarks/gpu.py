"""Everything that is to be known of a GPU, in one call: parity, then speed, memory and share of time by part.

    python benchmarks/gpu.py --out figures               # under eight minutes on an H200-class GPU
    python benchmarks/gpu.py --out figures --minutes 3   # what would begin later is left out, and named

Where the package is not installed: PYTHONPATH=. before it. Writes `gpu.json` (after every row: what is cut short is
kept) and `gpu.md` (tables), and prints the tables. Weights are random. Needs what the package imports without its
terminal (torch, torchvision, timm, opencv, numpy, scipy, safetensors, pydantic).

Where there is no CUDA device it says so and runs the same code on the preset `demo`, in a minute; compiled rows then
run by torch's "eager" backend, which shows that the code is right and nothing of its speed.

"plain" rows are the baseline: the same model in fp32, uncompiled, without kernels of the project's own, deformable
attention by `grid_sample` map by map. What is rearranged exactly (projecting before resizing, masks from shrunk
features, folded adapters, matching at points) is in them too, so the plain form of the paper's code would be slower
and larger still.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.backends.cuda import SDPAParams, can_use_efficient_attention

from reincli.bench.measure import Inference, Plan, Row, Training, measure
from reincli.bench.speed import describe
from reincli.data.labels import CITYSCAPES
from reincli.engine.checkpoint import build_model
from reincli.ops import deformable
from reincli.ops.window import resized_argmax
from reincli.prediction.predict import Predictor
from reincli.settings_files import load_settings
from reincli.training.run import new_run
from reincli.training.step import train_step

HEAD = ("pixel decoder", "mask decoder", "output")
STEPS = 3
"""Of training, whose last is compared."""


@dataclass(frozen=True)
class Kind:
    """Rows that differ in batch size alone.

    Attributes:
        form: what is different from the setting as it stands, for the table.
        plain: sample map by map. sets: `KEY=VALUE` pairs.
    """

    preset: str
    what: str
    batches: tuple[int, ...]
    precision: str
    form: str
    sets: tuple[str, ...] = ()
    plain: bool = False


COMPILED, GRAPHS = "test.compile=true", "test.cuda_graphs=true"
RECORDED = "train.cuda_graphs=true"
KEPT = "train.checkpoint_activations=true"
FAST = (
    Kind("gta2citys", "inference", (1, 4, 16), "fp32", "plain", plain=True),
    Kind("gta2citys", "inference", (1, 4, 16), "bf16", "eager"),
    Kind("gta2citys", "inference", (1, 4, 16), "bf16", "graphs", (GRAPHS,)),
    Kind("citys2acdc", "slide", (1,), "fp32", "plain", plain=True),
    Kind("citys2acdc", "slide", (1,), "bf16", "eager"),
    Kind("citys2acdc", "slide", (1,), "bf16", "graphs", (GRAPHS,)),
    *(
        Kind(preset, "training", (batch,), precision, form, sets, plain)
        for preset, batch in (("gta2citys", 4), ("citys2acdc", 2))
        for precision, form, sets, plain in (
            ("fp32", "plain", (), True), ("fp32", "graphs", (RECORDED,), False),
            ("bf16", "eager", (), False), ("bf16", "graphs", (RECORDED,), False),
            ("bf16", "graphs+recompute", (RECORDED, KEPT), False),
        )
    ),
)  # fmt: skip
SLOW = (  # compilation takes most of the time: last, so that the rest is there whatever happens
    Kind("gta2citys", "inference", (16,), "bf16", "compile", (COMPILED,)),
    Kind("gta2citys", "training", (4,), "bf16", "compile", ("train.compile=true",)),
    Kind("citys2acdc", "slide", (1,), "bf16", "compile+graphs", (COMPILED, GRAPHS)),
    Kind("gta2citys", "training", (4,), "bf16", "compile+recompute", ("train.compile=true", KEPT)),
    Kind("citys2acdc", "training", (2,), "bf16", "compile", ("train.compile=true",)),
    Kind("gta2citys", "inference", (1,), "bf16", "compile+graphs", (COMPILED, GRAPHS)),
)
WHERE_NO_GPU = tuple(
    replace(kind, preset="demo", batches=kind.batches[:1], precision="fp32") for kind in (FAST + SLOW)[1:-1:3]
)
"""A row of each work, some compiled."""


@contextmanager
def plain_form(wanted: bool) -> Iterator[None]:
    """While it lasts, deformable attention samples map by map, and no kernel of the project's own runs."""
    with ExitStack() as stack:
        if wanted:
            place = "reincli.model.pixel_decoder.deformable_attention"
            stack.enter_context(mock.patch(place, deformable.sample_plain))
        if wanted and find_spec("reincli.ops.triton_use") is not None:
            why = "the plain form was asked for"
            stack.enter_context(mock.patch("reincli.ops.triton_use.reason", return_value=why))
        yield


# --- parity ------------------------------------------------------------------------------------------------


def relative(ours: torch.Tensor, other: torch.Tensor) -> float:
    """|ours - other| / |other|."""
    return float((ours.double() - other.double()).norm() / other.double().norm())


def inference_parity(preset: str, device: torch.device) -> dict[str, float]:
    """The same weights and image in each form, against fp32 by the plain form."""
    settings = load_settings(preset)
    side = settings.data.augment.crop
    count = (
        16 if device.type == "cuda" else 2
    )  # as in a row below: what was compiled here is found there again
    images = list(torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device))

    def maps(precision: str, *sets: str, plain: bool = False) -> torch.Tensor:
        chosen = load_settings(preset, sets=sets)
        torch.manual_seed(0)
        with device:
            model = build_model(chosen, len(CITYSCAPES))
        with plain_form(plain):
            predictor = Predictor(model, CITYSCAPES, chosen, device, precision)
            for _ in range(3):  # a graph is recorded at the second call, replayed at the third
                found = predictor.class_maps_of(images, "whole")
        print(f"  {precision} {' '.join(sets)} {' '.join(predictor.notes)}", flush=True)
        return torch.stack(found).float()

    exact = maps("fp32", plain=True)
    forms = {"fp32": maps("fp32"), "bf16": maps("bf16"), "bf16 plain": maps("bf16", plain=True)}
    forms["bf16 graphs"] = maps("bf16", GRAPHS)
    forms["bf16 compiled"] = maps("bf16", COMPILED)
    label = [resized_argmax(each, (side, side)) for each in exact]
    found: dict[str, float] = {}
    for name, other in forms.items():
        same = [
            (resized_argmax(each, (side, side)) == right).float().mean()
            for each, right in zip(other, label, strict=True)
        ]
        found[f"{name}: scores, rel. L2"] = relative(other, exact)
        found[f"{name}: labels alike"] = float(torch.stack(same).mean())
    found["graphs against eager: scores, rel. L2"] = relative(forms["bf16 graphs"], forms["bf16"])
    found["compiled against eager: scores, rel. L2"] = relative(forms["bf16 compiled"], forms["bf16"])
    return found


def training_parity(preset: str, device: torch.device) -> dict[str, float]:
    """Losses and gradient norms of the last of some steps from the same weights, batch and points."""
    forms = {"plain fp32": ("fp32", (), True), "fp32": ("fp32", (), False),
             "fp32 graphs": ("fp32", (RECORDED,), False), "bf16": ("bf16", (), False),
             "bf16 graphs": ("bf16", (RECORDED,), False),
             "bf16 graphs, recompute": ("bf16", (RECORDED, KEPT), False),
             "bf16 compiled": ("bf16", ("train.compile=true",), False)}  # fmt: skip
    values: dict[str, dict[str, float]] = {}
    count = 4 if device.type == "cuda" else 2
    for name, (precision, sets, plain) in forms.items():
        settings = load_settings(preset, sets=(*sets, f"train.batch_size={count}"))
        torch.manual_seed(0)
        with device:
            model = build_model(settings, len(CITYSCAPES))
        said: list[str] = []
        run = new_run(
            settings, Path(), model, CITYSCAPES, device=device, precision=precision, note=said.append
        )
        run.model.train()
        side = settings.data.augment.crop
        generator = torch.Generator().manual_seed(0)
        label = torch.randint(0, 19, (count, side // 16, side // 16), dtype=torch.uint8, generator=generator)
        piece = {
            "image": torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator),
            "label": label.repeat_interleave(16, 1).repeat_interleave(16, 2),
            "size": torch.tensor([[side, side]] * count),
        }
        with plain_form(plain):
            for _ in range(
                STEPS
            ):  # from weights that the steps before changed: a wrong gradient shows in the loss
                step = train_step(run, [piece])
                run.iteration += 1
        name = f"{name}, NOT RECORDED" if said else name
        values[name] = {key: float(step[key]) for key in ("loss", "grad_norm")}
        print(f"  {name} {values[name]} {' '.join(said)}", flush=True)
    exact = values.pop("plain fp32")
    return {
        f"{name}: {key}, relative": abs(found[key] - exact[key]) / abs(exact[key])
        for name, found in values.items()
        for key in exact
    }


def waits(device: torch.device) -> dict[str, list[str]]:
    """Where the host waits for the device in a step and in predictions, by torch's own watch: file, line, function."""
    if device.type != "cuda":
        return {}
    found = {}
    for what, preset, size in (
        ("training", "gta2citys", "512x512"), ("inference", "gta2citys", "512x512"),
        ("slide", "citys2acdc", "2048x1024"),
    ):  # fmt: skip
        plan = Plan(load_settings(preset), device, (what,), (2,), ("bf16",), (2048, 1024), 1, 1.0)
        work = (Training if what == "training" else Inference)(plan, Row(what, 2, "bf16", size))
        for _ in range(3):
            work.call()
        torch.cuda.synchronize()
        places: list[str] = []

        def noted(*message: Any, places: list[str] = places, **rest: Any) -> None:
            ours = [f for f in traceback.extract_stack() if "reincli" in f.filename]
            if "called a synchronizing" in str(message[0]):
                places.append(f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}")

        with mock.patch("warnings.showwarning", noted), warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = noted
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work.call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found[what] = places
        del work
        torch.cuda.empty_cache()
    return found


def masked_attention(device: torch.device) -> dict[str, bool]:
    """Whether torch's memory-efficient kernel takes the head's masked attention at the levels of a 512 crop."""
    found = {}
    for pixels in (256, 1024, 4096, 920):
        for dtype in (torch.float32, torch.bfloat16):
            query = torch.empty(2, 8, 100, 32, device=device, dtype=dtype)
            key = torch.empty(2, 8, pixels, 32, device=device, dtype=dtype)
            mask = torch.ones(2, 1, 100, pixels, device=device, dtype=torch.bool)
            params = SDPAParams(query, key, key, mask, 0.0, False, False)
            found[f"{pixels} pixels, {str(dtype).removeprefix('torch.')}"] = can_use_efficient_attention(
                params
            )
    return found


def kernel_checks(device: torch.device) -> dict[str, Any] | None:
    """Error and time of each of the project's kernels against its plain form, by `kernels.py` beside this."""
    if device.type != "cuda" or find_spec("kernels") is None:
        return None
    module = importlib.import_module("kernels")
    return {"checks": module.check(1, 512, str(device)), "times": module.time_all(20, module.CROPS[1:2])}


# --- rows --------------------------------------------------------------------------------------------------


def rows_of(kind: Kind, device: torch.device, seconds: float) -> Iterator[Row]:
    """Measure the rows of one kind."""
    settings = load_settings(kind.preset, sets=kind.sets)
    size = (2048, 1024) if kind.preset == "citys2acdc" else (256, 128)
    plan = Plan(
        settings, device, (kind.what,), kind.batches, (kind.precision,), size,
        30 if device.type == "cuda" else 2, seconds,
    )  # fmt: skip
    with plain_form(kind.plain):
        yield from measure(plan)


def number(value: float | None, digits: int = 1) -> str:
    """A cell."""
    return "" if value is None else f"{value:,.{digits}f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: numbers, then shares of time by part."""
    start_of = ("preset", "what", "size", "batch", "precision", "form")
    lines = [
        "| setting | work | size | batch | arithmetic | form "
        "| ms | images/s | peak GiB | TFLOP/s | share | first call s |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        start = "| " + " | ".join(str(row[name]) for name in start_of) + " |"
        if row["failure"]:
            lines.append(f"{start} {row['failure']} | | | | | |")
            continue
        speed = row["flops"] / row["median_s"] / 1e12
        lines.append(
            f"{start} {number(1000 * row['median_s'])} | {number(row['images_per_s'])} | "
            f"{number(row['peak_bytes'] / 2**30, 2)} | {number(speed)} | {row['share']:.0%} | "
            f"{number(row['first_call_s'])} |"
        )
    names = list(dict.fromkeys(name for row in rows for name in row["parts_s"]))
    lines += [
        "",
        "| work | batch | arithmetic | form | " + " | ".join(names) + " |",
        "|---" * (4 + len(names)) + "|",
    ]
    for row in rows:
        if row["parts_s"] and "compile" not in row["form"]:  # parts are told apart uncompiled alone
            whole = sum(row["parts_s"].values())
            shares = [f"{row['parts_s'].get(name, 0.0) / whole:.0%}" for name in names]
            lines.append(
                f"| {row['preset']} {row['what']} | {row['batch']} | {row['precision']} | {row['form']} | "
                + " | ".join(shares) + " |"
            )  # fmt: skip
    return "\n".join(lines)


def reach(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The figures that matter most."""
    good = [row for row in rows if not row["failure"]]

    def chosen(preset: str, what: str, batch: int) -> list[dict[str, Any]]:
        return [r for r in good if (r["preset"], r["what"], r["batch"]) == (preset, what, batch)]

    found: dict[str, float] = {}
    whole = [row for row in chosen("gta2citys", "inference", 16) if row["precision"] == "bf16"]
    if whole:
        best = max(whole, key=lambda row: row["share"])
        found["inference L 512 x 16, bf16: share of the matrix rate"] = best["share"]
        parts = next(row["parts_s"] for row in whole if row["parts_s"])
        found["of which the head's share of time"] = sum(parts.get(n, 0.0) for n in HEAD) / sum(
            parts.values()
        )
    for preset, batch in (("gta2citys", 4), ("citys2acdc", 2)):
        steps = chosen(preset, "training", batch)
        plain = [row for row in steps if row["form"] == "plain"]
        if plain and len(steps) > 1:
            ours = max(steps, key=lambda row: row["images_per_s"])
            least = min(steps, key=lambda row: row["peak_bytes"])
            name = f"training {preset} x {batch}"
            found[f"{name}: images/s against plain fp32 ({ours['form']})"] = (
                ours["images_per_s"] / plain[0]["images_per_s"]
            )
            found[f"{name}: its memory against plain fp32"] = ours["peak_bytes"] / plain[0]["peak_bytes"]
            found[f"{name}: least memory against plain fp32 ({least['form']})"] = (
                least["peak_bytes"] / plain[0]["peak_bytes"]
            )
    slides = chosen("citys2acdc", "slide", 1)
    if slides:
        found["slide of 2048x1024 by 1024, best, ms"] = 1000 * min(row["median_s"] for row in slides)
    return found


# --- all of it ---------------------------------------------------------------------------------------------


def save(out: Path, figures: dict[str, Any]) -> str:
    """Write what there is; the tables as text."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(figures, indent=1))
    lines = [f"{figures['name']}, torch {figures['torch']}, CUDA {figures['cuda'] or 'none'}", ""]
    lines += [table(figures["rows"]), ""]
    for title in (
        "reach", "inference_parity", "training_parity", "waits", "masked_attention", "notes", "failures", "left_out",
    ):  # fmt: skip
        entries = figures.get(title) or {}
        listed = entries.items() if isinstance(entries, dict) else enumerate(entries)
        lines += [f"{title.replace('_', ' ')}:", *(f"- {name}: {value}" for name, value in listed), ""]
    text = "\n".join(lines)
    (out / "gpu.md").write_text(text)
    return text


def attempt(figures: dict[str, Any], title: str, call: Any) -> None:
    """One part of it; what fails is named and does not stop the rest."""
    print(f"{title} …", flush=True)
    try:
        figures[title] = call()
    except Exception as error:  # whatever a machine never seen before brings
        figures["failures"].append(f"{title}: {type(error).__name__}: {str(error).splitlines()[0][:300]}")
        print(figures["failures"][-1], flush=True)
    finally:
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main() -> None:
    """Parity, rows, tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=6.0, help="after which nothing more is begun")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed calls of a row, at most")
    given = parser.parse_args()
    begun = time.monotonic()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        print("There is no CUDA device: the same code on the preset demo, which tells nothing of speed.")
        torch.compile = functools.partial(torch.compile, backend="eager")  # type: ignore[assignment]
    figures: dict[str, Any] = {**describe(device), "rows": [], "notes": [], "failures": [], "left_out": []}
    preset = "gta2citys" if on_gpu else "demo"
    attempt(figures, "masked_attention", lambda: masked_attention(device) if on_gpu else {})
    attempt(figures, "waits", lambda: waits(device))
    attempt(figures, "kernels", lambda: kernel_checks(device))
    for kind in FAST + SLOW if on_gpu else WHERE_NO_GPU:
        name = f"{kind.preset} {kind.what} {kind.precision} {kind.form} x {kind.batches}"
        if time.monotonic() - begun > 60 * given.minutes:
            figures["left_out"].append(name)
            continue

        def rows(kind: Kind = kind) -> None:
            for row in rows_of(kind, device, given.seconds):
                figures["rows"].append({"preset": kind.preset, "form": kind.form, **row.as_dict()})
                if row.note:  # a graph that could not be recorded, too: the row is not what its name says
                    figures["notes"].append(f"{kind.preset} {row.what} x {row.batch} {kind.form}: {row.note}")
                figures["reach"] = reach(figures["rows"])
                save(given.out, figures)

        attempt(figures, name, rows)
        figures.pop(name, None)
        if kind is (FAST if on_gpu else WHERE_NO_GPU)[-1]:  # before what takes longest
            attempt(figures, "inference_parity", lambda: inference_parity(preset, device))
            attempt(figures, "training_parity", lambda: training_parity(preset, device))
    figures["seconds"] = time.monotonic() - begun
    print(save(given.out, figures))


if __name__ == "__main__":
    main()

"""How many training crops a core makes a second, against the plain order of the same steps in the same run.

    python benchmarks/loading.py [--images N] [--draws N] [--json FILE]

The plain order is: decode the whole image and label, resize both whole, change the colours of the whole, flip, crop.
It uses the same functions (colours by table, not by arithmetic on floats, which would be slower still), and both orders
make the same draws. Times are CPU seconds of one thread, so that other work on the machine does not count.
Pictures are generated streets with the noise of a sensor on top, so that PNG and JPEG have to work as on photographs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from reincli.config import AugmentSettings, DataSettings
from reincli.data import transforms as t
from reincli.data.compact import write_compact
from reincli.data.loading import load_label, open_pair
from reincli.data.sources import Sample, label_table
from reincli.generated.streets import write_scenes
from reincli.media.images import read_image, write_png
from reincli.media.whole_files import write_bytes

KINDS = {
    "1914x1052 png": (1914, 1052, ".png"),
    "2048x1024 png": (2048, 1024, ".png"),
    "1280x720 jpeg": (1280, 720, ".jpg"),
}
SENSOR_NOISE = 2.0
"""Standard deviation in grey levels."""


def make_pairs(folder: Path, width: int, height: int, suffix: str, count: int) -> list[Sample]:
    """Generated streets as a dataset stores them."""
    write_scenes(folder, train=count, val=0, targets=0, size=(512, 256), workers=0)
    rng = np.random.default_rng(0)
    samples = []
    for path in sorted(folder.rglob("*_leftImg8bit.png"))[:count]:
        found = next(folder.rglob(path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")))
        image = cv2.resize(read_image(path), (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + np.rint(rng.normal(0, SENSOR_NOISE, image.shape)), 0, 255).astype(np.uint8)
        stored = cv2.imread(str(found), cv2.IMREAD_UNCHANGED)
        label = cv2.resize(stored % 19, (width, height), interpolation=cv2.INTER_NEAREST)
        target = folder / f"{len(samples)}{suffix}"
        if suffix == ".png":
            write_png(target, image, compression=6)
        else:
            _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            write_bytes(target, data.tobytes())
        write_png(folder / f"label{len(samples)}.png", label)
        samples.append(Sample(target, folder / f"label{len(samples)}.png", "gta", "gta", target.name))
    return samples


class Clock:
    """CPU seconds by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    def measure(self, part: str, work: Callable[[], object]) -> object:
        """What `work` returns; its CPU seconds are added to those of the part."""
        start = time.process_time()
        result = work()
        self.parts[part] = self.parts.get(part, 0.0) + time.process_time() - start
        return result


def plain(sample: Sample, table: np.ndarray, augment: AugmentSettings, draw: int, clock: Clock) -> None:
    """Everything on the whole image, then the crop."""
    rng = np.random.default_rng(draw)
    image = clock.measure("decode", lambda: read_image(sample.image))
    label = clock.measure("decode", lambda: load_label(sample, table))

    def after() -> None:
        size = t.draw_size(image.shape[0], image.shape[1], augment, rng)
        big = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        big_label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
        box = t.draw_box(size, (augment.crop, augment.crop), rng)
        for _ in range(t.CROP_TRIES):
            part = big_label[box.top : box.bottom, box.left : box.right]
            if t.is_varied(np.ascontiguousarray(part), augment.max_class_share):
                break
            box = t.draw_box(size, (augment.crop, augment.crop), rng)
        if rng.uniform(0.0, 1.0) < augment.flip:
            big, big_label = cv2.flip(big, 1), cv2.flip(big_label, 1)
            box = t.Box(box.top, box.bottom, size[1] - box.right, size[1] - box.left)
        big = t.distort(big, t.draw_distortion(rng))
        t.pad(big[box.top : box.bottom, box.left : box.right].copy(), augment.crop, 0)
        t.pad(big_label[box.top : box.bottom, box.left : box.right].copy(), augment.crop, 255)

    clock.measure("after", after)


def fast(sample: Sample, table: np.ndarray, augment: AugmentSettings, draw: int, clock: Clock) -> None:
    """As `rein train` does it."""
    rng = np.random.default_rng(draw)
    pair = clock.measure("decode", lambda: open_pair(sample, table))
    view = clock.measure("after", lambda: t.draw_view(pair.shape, pair.label, augment, rng))
    pixels = clock.measure("decode", lambda: pair.pixels(view.size[0] / pair.shape[0]))
    inner = Clock()

    class Timed:
        """Tiles are decoded inside of `render`."""

        shape = pixels.shape

        def region(self, box: t.Box) -> np.ndarray:
            return inner.measure("decode", lambda: pixels.region(box))

    def render() -> None:
        image, label = t.render(Timed(), view)
        t.pad(image, augment.crop, 0)
        t.pad(label, augment.crop, 255)

    clock.measure("after", render)
    decoding = inner.parts.get("decode", 0.0)
    clock.parts["after"] -= decoding
    clock.parts["decode"] += decoding


def rates(clock: Clock, draws: int) -> dict[str, float]:
    """Milliseconds a sample by part, samples a second, and the share of decoding."""
    decode, after = 1000 * clock.parts["decode"] / draws, 1000 * clock.parts["after"] / draws
    return {
        "decode_ms": decode,
        "after_ms": after,
        "samples_per_second": 1000 / (decode + after),
        "decode_share": decode / (decode + after),
    }


def measure(samples: list[Sample], augment: AugmentSettings, draws: int, forms: dict[str, Callable]) -> dict:
    """Rates of several forms, turn by turn so that a slow minute of the machine meets them all."""
    table = label_table("gta", DataSettings())
    clocks = {name: Clock() for name in forms}
    for draw in range(draws):
        for name, form in forms.items():
            form(samples[draw % len(samples)], table, augment, draw, clocks[name])
    return {name: rates(clock, draws) for name, clock in clocks.items()}


def main() -> None:
    """Measure all kinds of files and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    augment, report = AugmentSettings(), {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (width, height, suffix) in KINDS.items():
            samples = make_pairs(Path(folder) / str(width), width, height, suffix, options.images)
            report[kind] = measure(samples, augment, options.draws, {"plain": plain, "rein": fast})
            for name, lossless in (("rein --cache", False), ("rein --cache --lossless", True)):
                for sample in samples:
                    write_compact(sample, lossless=lossless)
                report[kind] |= measure(samples, augment, options.draws, {name: fast})
    print(f"{'files':<15}{'way':<25}{'samples/s/core':>15}{'decode ms':>11}", end="")
    print(f"{'after ms':>10}{'decoding':>10}{'after x':>9}")
    for kind, ways in report.items():
        for way, r in ways.items():
            gain = ways["plain"]["after_ms"] / r["after_ms"]
            print(
                f"{kind:<15}{way:<25}{r['samples_per_second']:>15.1f}{r['decode_ms']:>11.1f}{r['after_ms']:>10.1f}"
                f"{r['decode_share']:>10.0%}{gain:>9.1f}"
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    sys.exit(main())

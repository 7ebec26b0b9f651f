"""How much of `rein visualize` is not the model: pictures and video of 1280x720, by default with DINOv2-S.

The model runs with random weights, which cost what trained ones cost; what is drawn are the streets' own labels,
since noise would not be drawn like a prediction. Each measurement of the whole path is taken between two of the
model alone on the same frames in memory, so that a machine with other work to do disturbs both alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from reincli.commands import console
from reincli.commands.visualize_pictures import Tally, draw_pictures
from reincli.commands.visualize_request import Request
from reincli.commands.visualize_video import draw_video
from reincli.data.labels import CITYSCAPES, IGNORE, LABEL_IDS, table_to_indices
from reincli.engine.checkpoint import build_model
from reincli.engine.device import pick_device, pick_precision
from reincli.generated.streets import generate
from reincli.media.drawing import write_drawing
from reincli.media.images import read_image, write_png
from reincli.media.inputs import find_inputs
from reincli.media.video import Video, VideoParts
from reincli.prediction.artist import Artist, Seen
from reincli.prediction.predict import Predictor
from reincli.settings_files import build_settings, read_preset

SIZE = (1280, 720)


class LabelArtist(Artist):
    """Runs the model and draws the label of the first street."""

    label: np.ndarray

    def see(self, images: Sequence[np.ndarray]) -> list[Seen]:
        """Predict, then put the label in the prediction's place."""
        return [Seen(seen.image, [LabelArtist.label], seen.confidences) for seen in super().see(images)]


def timed(work: Callable[[], object], times: int = 1) -> tuple[float, float]:
    """Median seconds of a call: by the clock, and of all cores together."""
    taken = []
    for _ in range(times):
        start, begun = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - start, time.process_time() - begun))
    return statistics.median(wall for wall, _ in taken), statistics.median(cpu for _, cpu in taken)


def main() -> None:
    """Measure and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--preset", default="gta2citys-vit_s")
    options.add_argument("--frames", type=int, default=6)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--precision", default="auto")
    options.add_argument("--device", default="auto")
    options.add_argument("--mode", default="slide")
    given = options.parse_args()
    console.configure(quiet=True)
    device = pick_device(given.device)
    precision = pick_precision(given.precision, device)
    settings = build_settings(read_preset(given.preset))
    torch.manual_seed(0)
    predictor = Predictor(build_model(settings, len(CITYSCAPES)), CITYSCAPES, settings, device, precision)
    artist = LabelArtist([predictor], mode=given.mode)
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), artist, given.frames, given.rounds)
    print(
        f"{given.preset}, {device}, {precision}, {given.mode}, {torch.get_num_threads()} threads, {given.frames} frames"
    )


def measure(folder: Path, artist: Artist, count: int, rounds: int) -> None:
    """Write frames, time the parts and the whole."""
    streets = [generate(seed, "clear", SIZE) for seed in range(count)]
    frames = [image for image, _ in streets]
    LabelArtist.label = table_to_indices(LABEL_IDS, other=IGNORE)[streets[0][1]]
    for index, frame in enumerate(frames):
        write_png(folder / "in" / f"{index}.png", frame)
    writer = VideoParts(folder / "in.mp4", 25.0, {})
    for frame in frames:
        writer.write(frame)
    writer.finish()
    seen = Seen(frames[0], [LabelArtist.label], [None])
    drawing = artist.draw(seen)
    parts = VideoParts(folder / "probe.mp4", 25.0, {})
    video = Video(folder / "in.mp4")
    stages = {
        "read a PNG": lambda: read_image(folder / "in" / "0.png"),
        "draw": lambda: artist.draw(seen),
        "write a PNG": lambda: write_drawing(folder / "probe.png", drawing),
        "encode a frame": lambda: parts.write(drawing),
    }
    for name, work in stages.items():
        print(f"{name:16} {1e3 * timed(work, 9)[1]:7.1f} ms of a core", flush=True)
    decoding = timed(lambda: list(video.read(video.span())), 3)[1] / count
    print(f"{'decode a frame':16} {1e3 * decoding:7.1f} ms of a core", flush=True)
    parts.discard()

    def model() -> None:
        for start in range(0, count, artist.batch):
            artist.see(frames[start : start + artist.batch])

    def pictures() -> None:
        request = Request(folder / "out", force=True)
        draw_pictures(find_inputs([str(folder / "in")], request.out).files, artist, request, Tally())

    def film() -> None:
        request = Request(folder / "film", force=True)
        draw_video(find_inputs([str(folder / "in.mp4")], request.out).files[0], artist, request, {})

    artist.see(frames[:1])  # warm
    for name, whole in (("pictures", pictures), ("video", film)):
        alone, all_of_it = [timed(model)], []
        for _ in range(rounds):
            all_of_it.append(timed(whole))
            alone.append(timed(model))
        for what, index in (("by the clock", 0), ("of all cores", 1)):
            took = min(each[index] for each in all_of_it) / count
            inside = min(each[index] for each in alone) / count
            share = max(0.0, 1 - inside / took)
            print(f"{name:9} {what}: {took:.3f} s a frame, the model alone {inside:.3f} s, outside it {share:.1%}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

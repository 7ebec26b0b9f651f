"""Videos and cameras for `rein visualize`: frames in, a video of the same rate and length out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from reincli.commands.console import duration, note, progress, result
from reincli.commands.visualize_request import MAKER, Request, stamp
from reincli.errors import ReinError
from reincli.media.anomaly_files import write_anomaly
from reincli.media.images import write_png
from reincli.media.outputs import mark
from reincli.media.video import Camera, Video, VideoParts
from reincli.prediction.stream import ahead, batched, mapped

if TYPE_CHECKING:
    import numpy as np

    from reincli.media.inputs import Input
    from reincli.prediction.artist import Artist, Seen

AHEAD, DRAWN = 4, 3
"""Frames that are decoded ahead of the model, and that wait to be encoded behind it."""
DRAWERS = 2
"""Threads that draw."""
TOLERANCE = 0.005
"""Share of the frames by which a file's own count may be too large without being called cut short."""


class CutShortError(ReinError):
    """A video ended early; what was readable is written."""


class NoVideoError(ReinError):
    """A video that gave no frame, or that this style cannot draw; others may be better."""


def draw_video(each: Input, artist: Artist, request: Request) -> None:
    """Draw one video; goes on where an earlier run of the same command was stopped.

    Raises:
        NoVideoError: it gives no frame.
        CutShortError: it ended before the frame that it says is its last; what was readable is written.
        ReinError: nothing can be written.
        KeyboardInterrupt: stopped; says how far it came.
    """
    if request.truth is not None:
        raise NoVideoError(
            f"'{each.source}' is a video: --gt goes with images.", "Give its frames as images."
        )
    try:
        video = Video(each.source)
    except ReinError as error:
        raise NoVideoError(error.message, error.hint) from None
    span = video.span(request.start, request.end, request.every)
    if not span:
        raise NoVideoError(
            f"'{each.source}' has no frame from --start on: it lasts {video.frames / video.rate:.1f} s.",
            "Give an earlier --start.",
        )
    plan = {**request.identity, "video": stamp(each.source), "span": [span.start, span.stop, span.step],
            "labels": request.labels, "anomaly": request.anomaly}  # fmt: skip
    parts = VideoParts(each.target, video.rate / request.every, plan)
    if request.force:
        parts.discard()
        parts = VideoParts(each.target, video.rate / request.every, plan)
    if parts.done:
        note(f"{each.source.name}: {parts.done} frames are there from an earlier run; going on from them.")
    name, made = each.source.name, request.mark_of(each)
    try:
        with progress(name, len(span) - parts.done if video.frames and not video.estimated else 0) as advance:
            for _ in _written(video, span[parts.done :], artist, parts, each, request, made):
                advance()
        read = parts.done + parts.count * (parts.writer is not None)
        if not read:
            parts.discard()
            raise NoVideoError(
                f"'{each.source}' gives no frame: it is damaged, or no video.", "Bring a whole copy of it."
            )
        parts.finish(made)
    except KeyboardInterrupt:
        parts.close()
        known = f"{parts.done} of {len(span)}" if video.frames or request.end is not None else f"{parts.done}"
        raise KeyboardInterrupt(
            f"{name}: {known} frames are kept. The same command goes on from there."
        ) from None
    if video.frames and not video.estimated and read < len(span) - max(1, TOLERANCE * len(span)):
        raise CutShortError(
            f"'{each.source}' is cut short or damaged: {read} of {len(span)} frames could be read.",
            f"They are drawn in '{each.target}'.",
        )


def _written(
    video: Video,
    span: range,
    artist: Artist,
    parts: VideoParts,
    source: Input,
    request: Request,
    made: str,
) -> Iterator[None]:
    """Decode, predict, draw and encode the frames of a span, all at the same time; yields after each frame."""

    def seen() -> Iterator[tuple[int, Seen]]:
        with closing(ahead(video.read(span), depth=AHEAD)) as frames:
            for group in batched(zip(span, frames, strict=False), artist.batch):
                for remark in artist.remarks(group[0][1].shape):
                    note(remark)
                found = artist.see([frame for _, frame in group])
                yield from zip((number for number, _ in group), found, strict=True)

    def draw(job: tuple[int, Seen]) -> np.ndarray:
        number, each = job
        if request.labels:
            write_png(source.label / f"{number:06d}.png", each.labels[0], mark=made)
        if request.anomaly and each.anomaly is not None:
            path = source.anomaly(request.anomaly) / f"{number:06d}{request.anomaly}"
            write_anomaly(path, each.anomaly, artist.classes, made)
        return artist.draw(each, every_class=True)

    yield from mapped(
        parts.write,
        mapped(draw, seen(), workers=DRAWERS, depth=DRAWN),
        workers=1,
        depth=DRAWN,
    )


def record(number: int, artist: Artist, request: Request) -> Path:
    """Draw what a camera sees until `--end` seconds have passed or Ctrl-C; the video plays in real time.

    The model sees the newest frame whenever it is ready for one. A frame is repeated until the next is there.

    Raises:
        ReinError: no such camera, it gives nothing, or nothing can be written.
    """
    camera = Camera(number)
    name = f"camera-{number}-{time.strftime('%Y%m%d-%H%M%S')}.mp4"
    parts = VideoParts(request.out / name, camera.rate, {"camera": number, "begun": time.time()})
    until = f"for {duration(request.end)}" if request.end else "until Ctrl-C"
    note(f"Recording from camera {number} {until}.")
    frames, seen = 0, 0

    def encode(job: tuple[float, Seen]) -> None:
        nonlocal frames
        drawing = artist.draw(job[1], every_class=True)
        for _ in range(max(1, round(job[0] * camera.rate) + 1 - frames)):
            parts.write(drawing)
            frames += 1

    def watched() -> Iterator[tuple[float, Seen]]:
        with closing(camera.read(request.end)) as newest:
            for elapsed, frame in newest:
                yield elapsed, artist.see([frame])[0]

    try:
        for _ in mapped(encode, watched(), workers=1, depth=2):
            seen += 1
    except KeyboardInterrupt:  # the usual end of a recording
        note("Stopped.")
    if not frames:
        parts.discard()
        raise ReinError(
            f"Camera {number} gives no picture.", "Is it covered by a switch, or in use elsewhere?"
        )
    parts.finish(mark(MAKER))
    result(f"'{parts.target}': {duration(frames / camera.rate)}, {seen} frames predicted.")
    return parts.target

"""Videos and cameras: frames in, in order and one at a time; frames out, whole or not at all.

Frames are (H, W, 3) uint8 RGB. A video is written in parts of some hundred frames in a hidden folder beside its
target; each part is a whole video of its own once it is closed. At the end the parts are joined without decoding
them, and the result is renamed to its name. So whatever stops the program, there is no broken video, and the parts
that are done need not be drawn again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from reincli.errors import ReinError
from reincli.media.images import opencv_silent
from reincli.media.mp4 import Track, join, read_track, times_of
from reincli.media.outputs import mark_video

USUAL_RATE = 25.0
"""Frames a second where a file or camera does not tell."""
ENDLESS = 2**31
"""End of a span of a video that does not say how long it is."""
MOST_RATE = 61.0
"""Frames a second above which a file is not believed before its time stamps were looked at."""
PROBED = 30
"""Frames whose time stamps are looked at then."""
OFF = 0.75
"""Frames by which a time stamp may be off the constant rate: one that is further off repeats a frame or drops one."""
STILL = 60.0
"""Seconds for which a frame may stand still in a file that does not say how long it is; more is a jump of its clock."""
COUNTED = ("ftyp", "RIFF")
"""How files begin (from byte 4, from byte 0) whose number of frames is a count, no estimate."""
PART_FRAMES, PART_SECONDS = 250, 60.0
"""A part is closed after so many frames, or so long: what a power cut loses at most."""
CODEC = "mp4v"
"""MPEG-4 Part 2: the one that every build of OpenCV can write into an MP4 file, fast."""


def _open(source: str | int) -> cv2.VideoCapture:
    """A capture that says nothing on stderr by itself."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read by OpenCV at its first video
    with opencv_silent():
        return cv2.VideoCapture(source)


class Video:
    """A video file, as frames at a constant rate: where the file's own rate varies, frames are repeated and dropped.

    Attributes:
        rate: frames a second. frames: how many it has at that rate; 0 where it does not say.
        estimated: `frames` follows from a length that may be wrong, nobody counted them.

    Raises:
        ReinError: no such file, or no video that OpenCV reads.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ReinError(f"There is no video at '{path}'.", "Check the path.")
        self.path = path
        capture = _open(str(path))
        opened = capture.isOpened()
        rate = capture.get(cv2.CAP_PROP_FPS) if opened else 0.0
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if opened else 0.0
        stamped = _stamped_rate(capture) if opened and rate > MOST_RATE else None
        capture.release()
        if not opened:
            raise ReinError(
                f"Cannot decode the video '{path}' ({path.stat().st_size} bytes).",
                "It is damaged, cut short, or of a kind that OpenCV does not read.",
            )
        count = count if math.isfinite(count) and count > 0 else 0.0
        if stamped is not None and stamped < rate / 2:  # its clock's unit, which some files give as rate
            count, rate = count * stamped / rate, stamped
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE
        with open(path, "rb") as file:
            start = file.read(8).decode("latin-1")
        self.estimated = not (start[4:] == COUNTED[0] or start[:4] == COUNTED[1])
        times = times_of(path) if start[4:] == COUNTED[0] else None
        if count and times is not None and not _is_steady(times):
            count, self.estimated = times[-1] * self.rate + 1, True
        self.frames = round(count)

    def span(self, start: float | None = None, end: float | None = None, every: int = 1) -> range:
        """Numbers of the frames from `start` to before `end` (seconds), every so many.

        Where the file does not say how many it has, the span goes on without end.
        """
        first = math.ceil((start or 0.0) * self.rate - 1e-6)
        stop = self.frames or ENDLESS
        if end is not None:
            stop = min(stop, math.ceil(end * self.rate - 1e-6))
        return range(first, max(first, stop), every)

    def read(self, span: range) -> Generator[np.ndarray]:
        """The frames of a span, in order; fewer where the file ends before.

        Frames between are passed over without being turned into pictures. Seeking is left alone: in many files it
        lands on another frame.
        """
        capture = _open(str(self.path))
        clock = _Clock(self.rate, self.frames)
        wanted = iter(span)
        number, held = next(wanted, None), None
        try:
            while number is not None and capture.grab():
                place = clock.place(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
                while held is not None and number is not None and number < place:  # it stood still until here
                    yield held
                    number = next(wanted, None)
                held = None
                still = int(
                    span.step == 1
                )  # how far before the one wanted a frame may lie that stands until then
                if number is None or place < number - still:
                    continue
                ok, frame = capture.retrieve()
                if not ok:
                    return
                held = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                while number is not None and number <= place:
                    yield held
                    number = next(wanted, None)
        finally:
            capture.release()


class _Clock:
    """Turns time stamps into numbers of frames at a constant rate."""

    def __init__(self, rate: float, frames: int) -> None:
        self.rate = rate
        self.most = frames or STILL * rate
        self.begun: float | None = None
        self.stamp, self.at = -math.inf, -1

    def place(self, stamp: float) -> int:
        """The number of the frame with this time stamp (seconds); that of the one before where there is no room.

        A stamp that goes back or jumps far, as some files have them, is passed by: that frame comes next.
        """
        following = self.at + 1
        if self.begun is None or not math.isfinite(stamp) or stamp <= self.stamp:
            off = 0.0
        else:
            off = (stamp - self.begun) * self.rate - following
        if self.begun is None or stamp <= self.stamp or off > self.most:
            self.begun, off = stamp - following / self.rate, 0.0
        self.stamp = stamp
        if off < -OFF:
            return self.at
        self.at = following + (round(off) if off > OFF else 0)
        return self.at


def _is_steady(times: np.ndarray) -> bool:
    """Whether frames shown at these times (seconds) come at a constant rate, but for what files round."""
    gaps = np.diff(times)
    return not len(gaps) or float(np.abs(gaps - np.median(gaps)).max()) < OFF * float(np.median(gaps))


def _stamped_rate(capture: cv2.VideoCapture) -> float | None:
    """Frames a second by the first time stamps; None where they do not tell."""
    stamps: list[float] = []
    while len(stamps) < PROBED and capture.grab():
        stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    gaps = np.diff(stamps)
    gap = float(np.median(gaps)) if len(gaps) else 0.0
    return 1 / gap if math.isfinite(gap) and gap > 0 else None


class Camera:
    """A camera that is watched: whoever asks gets the newest frame.

    Raises:
        ReinError: there is no such camera.
    """

    def __init__(self, number: int) -> None:
        self.capture = _open(number)
        if not self.capture.isOpened():
            there = sorted(Path("/dev").glob("video*"))
            found = (
                f"Video devices here: {', '.join(map(str, there))}." if there else "No video device is here."
            )
            raise ReinError(f"There is no camera {number}, or another program holds it.", found)
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 60 else USUAL_RATE

    def read(self, seconds: float | None = None) -> Generator[tuple[float, np.ndarray]]:
        """(seconds since the first, frame), never the same twice, until the time is over or the camera ends."""
        newest: list[np.ndarray | None] = [None]
        changed, ended = threading.Condition(), threading.Event()

        def watch() -> None:
            while not ended.is_set():
                ok, frame = self.capture.read()
                with changed:
                    newest[0] = frame if ok else None
                    if not ok:
                        ended.set()
                    changed.notify()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        begun: float | None = None
        try:
            while True:
                with changed:
                    changed.wait_for(lambda: newest[0] is not None or ended.is_set())
                    frame, newest[0] = newest[0], None
                if frame is None:
                    return
                begun = time.monotonic() if begun is None else begun
                elapsed = time.monotonic() - begun
                if seconds is not None and elapsed >= seconds:
                    return
                yield elapsed, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            ended.set()
            watcher.join(timeout=2)
            self.capture.release()


class VideoParts:
    """A video that is being written.

    Args:
        target: the `.mp4` to make.
        rate: frames a second.
        plan: what decides the frames. Parts of another plan are thrown away, those of the same are gone on from.

    Attributes:
        done: frames in finished parts: the next one to write has this number.
    """

    def __init__(self, target: Path, rate: float, plan: Mapping[str, Any]) -> None:
        self.target, self.rate = target, rate
        self.folder = target.with_name(f".{target.name}.parts")
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)
        self.count, self.since = 0, 0.0
        self.parts: list[Track] = []
        self._begin(json.dumps({**plan, "rate": rate}, sort_keys=True, default=str))
        self.done = sum(len(part.sizes) for part in self.parts)

    def _begin(self, plan: str) -> None:
        note = self.folder / "plan.json"
        with _disk(self.target):
            if not note.exists() or note.read_text("utf-8") != plan:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                note.write_text(plan, "utf-8")
        at = 0
        while (path := self._part(at)).exists():
            try:
                track = read_track(path)
            except ReinError:
                break  # cut by a full disk or a power cut: from here on again
            self.parts.append(track)
            at += len(track.sizes)

    def _part(self, first: int) -> Path:
        return self.folder / f"part-{first:09d}.mp4"

    @property
    def _growing(self) -> Path:
        return self.folder / "growing.mp4"

    def write(self, frame: np.ndarray) -> None:
        """Append a frame; all have the size of the first."""
        if self.writer is None:
            self._open(frame)
        assert self.writer is not None
        picture = _even(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if picture.shape[:2] != self.size:
            raise ValueError(f"a frame of {picture.shape[:2]} after frames of {self.size}")
        self.writer.write(picture)
        self.count += 1
        if self.count >= PART_FRAMES or time.monotonic() - self.since >= PART_SECONDS:
            self.close()

    def _open(self, frame: np.ndarray) -> None:
        self.size = _even(frame).shape[:2]
        height, width = self.size
        writer = cv2.VideoWriter(
            str(self._growing), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*CODEC), self.rate, (width, height)
        )
        if not writer.isOpened():
            raise ReinError(
                f"Cannot write a video of {width}x{height} to '{self._growing}'.",
                "Check free space and permission. The size can be changed before: a smaller video, or pictures.",
            )
        self.writer, self.count, self.since = writer, 0, time.monotonic()

    def close(self) -> None:
        """End the growing part and keep it; the encoder does not tell of a full disk, so it is read back.

        Raises:
            ReinError: the disk is full. What was finished before is kept.
        """
        if self.writer is None:
            return
        self.writer.release()
        self.writer = None
        try:
            whole = len(read_track(self._growing).sizes) == self.count
        except ReinError:
            whole = False
        if not whole:
            self._growing.unlink(missing_ok=True)
            raise ReinError(
                f"Cannot write '{self.target}': no space left on the disk?",
                f"{self.done} frames are kept. Free some space; the same command goes on from there.",
            )
        path = self._part(self.done)
        os.replace(self._growing, path)
        self.parts.append(read_track(path))
        self.done += self.count

    def finish(self, mark: str = "") -> None:
        """Join the parts into the target, and remove them; `mark` (`outputs.mark`) is kept at its end.

        Raises:
            ReinError: no frame was written, or the disk is full; the parts are kept.
        """
        self.close()
        if not self.parts:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ReinError(
                f"There is no frame to write to '{self.target}'.",
                "Check that the video plays, and its --start.",
            )
        whole = self.folder / "whole.mp4"
        with _disk(self.target):
            if len(self.parts) == 1:
                os.replace(self.parts[0].path, whole)
            else:
                with open(whole, "wb") as file:
                    join(self.parts, file)
                    file.flush()
                    os.fsync(file.fileno())
            if mark:
                mark_video(whole, mark)
            os.replace(whole, os.path.realpath(self.target))
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Throw all of it away."""
        if self.writer is not None:
            self.writer.release()
            self.writer = None
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    """Turns a failure of the disk into a sentence."""
    try:
        yield
    except OSError as failure:
        raise ReinError(
            f"Cannot write '{target}': {failure.strerror}.",
            "Check free space and permission, or choose another folder; what is done is kept.",
        ) from None


def _even(frame: np.ndarray) -> np.ndarray:
    """Sides made even by repeating the last row or column: the codec stores colours for 2x2 pixels."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        return cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return frame

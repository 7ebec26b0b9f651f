"""Videos: read in order, written in parts and joined without loss, never left broken."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from reincli.errors import ReinError
from reincli.media import video as videos
from reincli.media.mp4 import read_track
from reincli.media.video import Camera, Video, VideoParts

SIZE = (64, 48)


def frame(number: int, size=SIZE) -> np.ndarray:
    """A frame that tells its number by its brightness."""
    return np.full((size[1], size[0], 3), 30 + 10 * number, np.uint8)


def write(path: Path, count: int = 20, rate: float = 10.0, codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, SIZE)
    for number in range(count):
        writer.write(frame(number))
    writer.release()
    return path


def numbers(path: Path, span: range | None = None) -> list[int]:
    video = Video(path)
    return [round((float(f.mean()) - 30) / 10) for f in video.read(span or video.span())]


@pytest.mark.parametrize(("name", "codec"), [("straße.mp4", "mp4v"), ("雨.avi", "MJPG"), ("a.mkv", "mp4v")])
def test_reads_frames_in_order(tmp_path, name, codec):
    video = Video(write(tmp_path / name, codec=codec))
    assert (video.rate, video.frames) == (10.0, 20)
    assert numbers(video.path) == list(range(20))


def test_spans_are_in_seconds_and_steps(tmp_path):
    video = Video(write(tmp_path / "a.mp4"))
    assert video.span(0.5, 1.2) == range(5, 12)
    assert video.span(1.5, 99, 2) == range(15, 20, 2)
    assert not video.span(5)
    assert numbers(video.path, video.span(0.5, 1.5, 3)) == [5, 8, 11, 14]


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ReinError, match=r"Cannot decode the video '.*a.mp4' \(8 bytes\)"):
        Video(tmp_path / "a.mp4")
    with pytest.raises(ReinError, match="no video at"):
        Video(tmp_path / "b.mp4")


@pytest.mark.parametrize("size", [(64, 48), (65, 47), (3, 2)])
def test_writes_frames_of_any_size_under_their_name_only_at_the_end(tmp_path, size):
    target = tmp_path / "out" / "ünïcode.mp4"
    parts = VideoParts(target, 29.97, {})
    for number in range(5):
        parts.write(frame(number, size))
    assert not target.exists()
    parts.finish()
    video = Video(target)
    assert video.frames == 5
    assert video.rate == pytest.approx(29.97, abs=0.01)
    first = next(iter(video.read(range(1))))
    assert first.shape[:2] == (size[1] + size[1] % 2, size[0] + size[0] % 2)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_parts_are_joined_without_changing_a_pixel(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "PART_FRAMES", 4)
    rng = np.random.default_rng(0)
    parts = VideoParts(tmp_path / "a.mp4", 10.0, {})
    for _ in range(10):
        parts.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    parts.close()
    paths = sorted(parts.folder.glob("part-*.mp4"))
    assert len(paths) == 3
    expected = [f for path in paths for f in Video(path).read(range(10))]
    parts.finish()
    joined = Video(tmp_path / "a.mp4")
    assert (joined.frames, joined.rate) == (10, 10.0)
    np.testing.assert_array_equal(list(joined.read(joined.span())), expected)
    np.testing.assert_array_equal(next(iter(joined.read(range(6, 7)))), expected[6])
    assert {0, 4, 8} <= set(read_track(tmp_path / "a.mp4").keys.tolist())


def test_goes_on_from_finished_parts_of_the_same_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "PART_FRAMES", 3)
    target = tmp_path / "a.mp4"
    first = VideoParts(target, 10.0, {"style": "mask"})
    for number in range(7):
        first.write(frame(number))
    del first  # as if the power went: frame 6 is lost
    second = VideoParts(target, 10.0, {"style": "mask"})
    assert second.done == 6
    for number in range(6, 9):
        second.write(frame(number))
    second.finish()
    assert numbers(target) == list(range(9))
    third = VideoParts(target, 10.0, {"style": "mask"})
    third.write(frame(0))
    third.close()
    assert VideoParts(target, 10.0, {"style": "side"}).done == 0  # another plan: from the start


def test_a_part_that_was_cut_is_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "PART_FRAMES", 3)
    parts = VideoParts(tmp_path / "a.mp4", 10.0, {})
    for number in range(6):
        parts.write(frame(number))
    last = max(parts.folder.glob("part-*.mp4"))
    last.write_bytes(last.read_bytes()[:-100])
    assert VideoParts(tmp_path / "a.mp4", 10.0, {}).done == 3


def test_a_full_disk_is_noticed_and_what_is_done_is_kept(tmp_path):
    """In a process that may write files of 30 kB at most: the encoder does not tell that it failed."""
    pytest.importorskip("resource")  # limits the size of files
    program = f"""
import resource, signal, sys
import numpy as np
from pathlib import Path
from reincli.media import video as videos
from reincli.errors import ReinError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
videos.PART_FRAMES = 5
parts = videos.VideoParts(Path({str(tmp_path / "a.mp4")!r}), 10.0, {{}})
for _ in range(5):
    parts.write(np.zeros((256, 256, 3), np.uint8))
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
rng = np.random.default_rng(0)
try:
    for _ in range(5):
        parts.write(rng.integers(0, 255, (256, 256, 3), np.uint8))
except ReinError as error:
    print(error.message, error.hint)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "no space left" in done.stdout
    assert "5 frames are kept" in done.stdout
    assert VideoParts(tmp_path / "a.mp4", 10.0, {}).done == 5


def test_nothing_written_leaves_nothing(tmp_path):
    parts = VideoParts(tmp_path / "a.mp4", 10.0, {})
    with pytest.raises(ReinError, match="no frame"):
        parts.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_camera_that_is_not_there():
    with pytest.raises(ReinError, match="no camera 93"):
        Camera(93)


class FakeCapture:
    """A camera of 50 frames a second that ends after 20 of them."""

    def __init__(self, source):
        self.number = 0

    def isOpened(self):  # noqa: N802
        return True

    def get(self, what):
        return 50.0

    def read(self):
        time.sleep(0.02)
        self.number += 1
        return self.number <= 20, frame(self.number)

    def release(self):
        pass


def test_a_camera_gives_the_newest_frame_once(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    seen = []
    for elapsed, picture in Camera(0).read():
        time.sleep(0.07)
        seen.append((elapsed, int(picture.mean())))
    assert 3 <= len(seen) <= 12  # a slow viewer misses frames
    assert seen == sorted(set(seen))


def test_a_camera_stops_in_time(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    assert all(elapsed < 0.15 for elapsed, _ in Camera(0).read(0.15))


# --- rates that vary ---------------------------------------------------------------------------------------


def with_times(path: Path, steps: list[int]) -> Path:
    """A video of `write` whose frames last so many tenths of a second: its table of times is written anew."""
    plain = write(path, count=len(steps)).read_bytes()
    place = plain.index(b"stts")
    size = int.from_bytes(plain[place - 4 : place], "big")
    scale_at = plain.index(b"mdhd") + 16
    scale = int.from_bytes(plain[scale_at : scale_at + 4], "big")
    entries = b"".join(struct.pack(">2I", 1, step * scale // 10) for step in steps)
    table = struct.pack(">I4s2I", 16 + len(entries), b"stts", 0, len(steps)) + entries
    grown = bytearray(plain[: place - 4] + table + plain[place - 4 + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = grown.index(name) - 4
        grown[at : at + 4] = (int.from_bytes(grown[at : at + 4], "big") + len(table) - size).to_bytes(
            4, "big"
        )
    assert plain.index(b"mdat") < place  # the frames lie before the table, so that no offset changes
    path.write_bytes(bytes(grown))
    return path


def test_a_rate_that_varies_keeps_its_length(tmp_path):
    steps = [1, 1, 1, 1, 3, 1, 1, 1]
    video = Video(with_times(tmp_path / "a.mp4", steps))
    at = [sum(steps[:n]) / 10 * video.rate for n in range(len(steps))]
    assert video.estimated
    assert abs(video.frames - at[-1]) <= 1.5
    shown = numbers(video.path)
    assert abs(len(shown) - video.frames) <= 1
    for place, number in enumerate(shown):  # each frame is shown near its time
        assert at[number] - place < 1
        assert place < (at[number + 1] if number + 1 < len(at) else video.frames) + 1
    assert shown == sorted(shown)
    assert len(shown) > len(set(shown))  # the one that stood still is repeated


def test_time_stamps_become_places():
    clock = videos._Clock(10.0, 100)
    assert [clock.place(t) for t in (5.0, 5.1, 5.24, 5.3, 5.34, 5.36, 5.9, 6.0)] == [
        0,
        1,
        2,
        3,
        4,
        4,
        9,
        10,
    ]
    assert clock.place(2.0) == 11  # a stamp that goes back, and from there on again
    assert clock.place(2.1) == 12
    assert clock.place(500.0) == 13  # a jump of the clock
    assert [clock.place(t) for t in (math.nan, 500.2)] == [14, 15]


def test_a_steady_rate_is_left_as_it_is_whatever_the_file_rounds():
    clock = videos._Clock(30000 / 1001, 0)
    assert [clock.place(round(n * 1001 / 30000, 2)) for n in range(5000)] == list(range(5000))


@pytest.mark.parametrize(("name", "codec", "estimated"), [("a.mp4", "mp4v", False), ("a.avi", "MJPG", False),
                                                          ("a.mkv", "mp4v", True)])  # fmt: skip
def test_which_counts_are_estimates(tmp_path, name, codec, estimated):
    assert Video(write(tmp_path / name, codec=codec)).estimated == estimated

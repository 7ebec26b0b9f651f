"""MP4 files of one video track, joined without decoding them: so that a video can be written in parts.

Only what is needed of ISO/IEC 14496-12 (the boxes of the file) for files that one encoder wrote with one setting:
constant frame rate, no reordered frames, the samples in their order in one block of data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from reincli.errors import ReinError

BLOCK = 1 << 20
"""Bytes copied at a time."""
MOST_FRAMES = 50_000_000
"""Frames of a film that is believed: nine days at 60 a second."""
LARGEST_INDEX = 1 << 28
"""Bytes of an index that is read at all."""
FILE_TYPE = b"isom\x00\x00\x02\x00isomiso2mp41"


@dataclass(frozen=True)
class Track:
    """The video track of one file.

    Attributes:
        path: of the file. data: (offset, bytes) of all frames, one after the other.
        sizes: (n,) bytes of each frame. keys: (m,) which frames can be decoded alone, from 0.
        timescale: units a second. step: units a frame.
        copied: boxes that say how to decode and show it, by name.
    """

    path: Path
    data: tuple[int, int]
    sizes: np.ndarray
    keys: np.ndarray
    timescale: int
    step: int
    copied: dict[str, bytes]


def read_track(path: Path) -> Track:
    """What a file holds, without its frames.

    Raises:
        ReinError: cut short (a full disk, an interrupted writer), or not of the form that is expected here.
    """
    try:
        with open(path, "rb") as file:
            top = {name: (start, size) for name, start, size in _boxes(file, 0, path.stat().st_size)}
            start, size = top["moov"]
            file.seek(start)
            return _track(path, file.read(size), top["mdat"])
    except FileNotFoundError:
        raise ReinError(f"There is no video at '{path}'.", "Check the path.") from None
    except (KeyError, IndexError, ValueError, struct.error):
        raise ReinError(
            f"The video '{path}' is not whole.", "Was the disk full? Free some space and run it again."
        ) from None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """(name, start and size of the content) of the boxes in a part of a file."""
    while start + 8 <= end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", file.read(8))[0], 16
        if size < head or start + size > end:
            raise ValueError(f"box {name!r} ends beyond the file")
        yield name.decode("latin-1"), start + head, size - head
        start += size


def times_of(path: Path) -> np.ndarray | None:
    """When the frames of an MP4 or QuickTime file are shown, by its index: (n,) seconds from the first, ascending.

    None where the index does not say, as in files that are written in fragments.
    """
    try:
        with open(path, "rb") as file:
            for name, start, size in _boxes(file, 0, path.stat().st_size):
                if name == "moov" and size <= LARGEST_INDEX:
                    file.seek(start)
                    return _times(file.read(size))
    except (OSError, KeyError, ValueError, struct.error):
        pass
    return None


def _times(moov: bytes) -> np.ndarray | None:
    start = 0
    while start + 8 <= len(moov):
        size, name = struct.unpack_from(">I4s", moov, start)
        if name == b"trak":
            media = _inside(_inside(moov[start + 8 : start + size])["mdia"])
            if media["hdlr"][8:12] == b"vide":
                (scale,) = struct.unpack_from(">I", media["mdhd"], 20 if media["mdhd"][0] else 12)
                return _shown(_inside(_inside(media["minf"])["stbl"]), scale)
        start += max(size, 8)
    return None


def _shown(table: dict[str, bytes], scale: int) -> np.ndarray | None:
    """Times of showing: those of decoding, and the offset of each from there (ISO/IEC 14496-12, 8.6.1)."""
    counts, steps = _runs(table["stts"], ">u4")
    if not scale or not 0 < counts.sum() <= MOST_FRAMES:
        return None
    times = np.cumsum(np.repeat(steps, counts)) - np.repeat(steps, counts)
    if "ctts" in table:
        counts, offsets = _runs(table["ctts"], ">i4")  # signed, if not by the letter of its version 0
        times = times + np.repeat(offsets, counts)
    times = np.sort(times)
    return (times - times[0]) / scale


def _runs(box: bytes, kind: str) -> tuple[np.ndarray, np.ndarray]:
    counts = np.frombuffer(box, ">u4", offset=8)[::2].astype(np.int64)
    return counts, np.frombuffer(box, kind, offset=8)[1::2].astype(np.int64)


def _inside(content: bytes) -> dict[str, bytes]:
    """Boxes within a box, by name."""
    found, start = {}, 0
    while start + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, start)
        found[name.decode("latin-1")] = content[start + 8 : start + size]
        start += max(size, 8)
    return found


def _track(path: Path, moov: bytes, data: tuple[int, int]) -> Track:
    trak = _inside(_inside(moov)["trak"])
    mdia = _inside(trak["mdia"])
    minf = _inside(mdia["minf"])
    table = _inside(minf["stbl"])
    if "ctts" in table:
        raise ValueError("frames are reordered")
    (count,) = struct.unpack_from(">I", table["stsz"], 8)
    fixed = struct.unpack_from(">I", table["stsz"], 4)[0]
    sizes = np.full(count, fixed) if fixed else np.frombuffer(table["stsz"], ">u4", count, 12)
    steps = np.frombuffer(table["stts"], ">u4", offset=8).reshape(-1, 2)
    keys = np.frombuffer(table["stss"], ">u4", offset=8) - 1 if "stss" in table else np.arange(count)
    if int(sizes.sum()) != data[1] or not count:
        raise ValueError("frames are missing")
    copied = {
        "tkhd": trak["tkhd"],
        "hdlr": mdia["hdlr"],
        "vmhd": minf["vmhd"],
        "dinf": minf["dinf"],
        "stsd": table["stsd"],
    }
    timescale = struct.unpack_from(">I", mdia["mdhd"], 12)[0]
    step = int(steps[np.argmax(steps[:, 0]), 1])
    return Track(path, data, sizes.astype(np.int64), keys.astype(np.int64), timescale, step, copied)


def join(tracks: Sequence[Track], target: BinaryIO) -> None:
    """Write all frames of the tracks, in order, as one file.

    Raises:
        ReinError: the tracks were encoded differently.
        OSError: they cannot be read or written.
    """
    first = tracks[0]
    for track in tracks[1:]:
        if (_decoder(track), track.timescale) != (_decoder(first), first.timescale):
            raise ReinError(
                f"'{track.path}' was encoded differently from '{first.path}'.", "Draw it again: --force"
            )
    target.write(_box("ftyp", FILE_TYPE))
    total = sum(track.data[1] for track in tracks)
    offset = target.tell() + 16
    target.write(struct.pack(">I4sQ", 1, b"mdat", total + 16))
    offsets = []
    for track in tracks:
        offsets.append(offset)
        offset += track.data[1]
        _copy(track, target)
    target.write(_moov(tracks, offsets))


def _decoder(track: Track) -> bytes:
    """What sets up the decoder: the MPEG-4 headers within the sample description, without the bit rates around."""
    described = track.copied["stsd"]
    start, end = described.find(b"\x00\x00\x01\xb0"), described.rfind(b"\x06\x80\x80\x80\x01\x02")
    return described[start:end] if 0 <= start < end else described


def _copy(track: Track, target: BinaryIO) -> None:
    start, left = track.data
    with open(track.path, "rb") as file:
        file.seek(start)
        while left:
            block = file.read(min(BLOCK, left))
            if not block:
                raise OSError(5, "cut short while it was read", str(track.path))
            target.write(block)
            left -= len(block)


def _moov(tracks: Sequence[Track], offsets: Sequence[int]) -> bytes:
    """The index: one chunk of frames a track."""
    first = tracks[0]
    counts = [len(track.sizes) for track in tracks]
    units = sum(counts) * first.step
    milliseconds = round(1000 * units / first.timescale)
    sizes = np.concatenate([track.sizes for track in tracks])
    starts = np.cumsum([0, *counts[:-1]])
    keys = np.concatenate([track.keys + start + 1 for track, start in zip(tracks, starts, strict=True)])
    chunks = [(number, count, 1) for number, count in enumerate(counts, start=1)]
    table = _box(
        "stbl",
        _box("stsd", first.copied["stsd"])
        + _box("stts", struct.pack(">4I", 0, 1, len(sizes), first.step))
        + _box("stss", struct.pack(">2I", 0, len(keys)) + keys.astype(">u4").tobytes())
        + _box("stsc", struct.pack(">2I", 0, len(chunks)) + np.asarray(chunks, ">u4").tobytes())
        + _box("stsz", struct.pack(">3I", 0, 0, len(sizes)) + sizes.astype(">u4").tobytes())
        + _box("co64", struct.pack(">2I", 0, len(offsets)) + np.asarray(offsets, ">u8").tobytes()),
    )
    media = _box("vmhd", first.copied["vmhd"]) + _box("dinf", first.copied["dinf"]) + table
    mdhd = struct.pack(">5I2H", 0, 0, 0, first.timescale, units, 0x55C4, 0)  # language undetermined
    mdia = _box("mdhd", mdhd) + _box("hdlr", first.copied["hdlr"]) + _box("minf", media)
    tkhd = first.copied["tkhd"]
    tkhd = tkhd[:20] + struct.pack(">I", milliseconds) + tkhd[24:]
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    mvhd = (
        struct.pack(">5I", 0, 0, 0, 1000, milliseconds)
        + struct.pack(">IH10x", 0x10000, 0x100)  # speed and volume 1
        + matrix
        + bytes(24)
        + struct.pack(">I", 2)  # number of the next track
    )
    return _box("moov", _box("mvhd", mvhd) + _box("trak", _box("tkhd", tkhd) + _box("mdia", mdia)))


def _box(name: str, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, name.encode("latin-1")) + content

"""Reading images and label maps, and writing PNGs."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from reincli.errors import ReinError
from reincli.media.picture_kinds import PNG_SIGNATURE, TIFF, lossy_kind, picture_kind, why_not
from reincli.media.whole_files import write_bytes

OBJECTS = 1000
"""From here on stored values are numbers of objects, as datasets of the streets write them (class * 1000 + n)."""
SLIVER = 8191
"""An eighth of what 16 bits hold."""
_PNG_HEAD = 33  # bytes of signature and header
_GREY, _PALETTE = 0, 3  # colour types of a PNG
_ORIENTATION = 0x0112  # number of the EXIF note
_SHRUNK = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def read_bytes(path: Path, what: str) -> np.ndarray:
    """A whole file as (n,) uint8; `what` names it in errors.

    Raises:
        ReinError: no such file, or no permission.
    """
    try:
        return np.fromfile(path, np.uint8)  # numpy opens any path name; OpenCV does not on every system
    except FileNotFoundError:
        gone = f" (a link to '{path.readlink()}')" if path.is_symlink() else ""
        raise ReinError(f"There is no {what} at '{path}'{gone}.", "Check the path.") from None
    except OSError as error:
        raise ReinError(
            f"Cannot read the {what} '{path}': {error.strerror}.", "Check path and permission."
        ) from None


@contextlib.contextmanager
def opencv_silent() -> Iterator[None]:
    """While it lasts, OpenCV writes nothing to stderr by itself: what is wrong with a file is said in one sentence."""
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is None:
        yield
        return
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def _decode(path: Path, flags: int, what: str, *, indices: bool = False) -> np.ndarray:
    data = read_bytes(path, what)
    bits, palette = _few_bits(data) if indices else (0, False)
    if data.size and picture_kind(path) == "HEIC":  # a decoder may give the first of its tiles alone
        raise why_not(path, data, what)
    # of a cut PNG its decoder would show what is there, and chatter about the rest
    if data[:8].tobytes() == PNG_SIGNATURE and not _has_end(data):
        raise why_not(path, data, what)
    try:
        with opencv_silent():
            array = cv2.imdecode(_palette_to_grey(data) if palette else data, flags) if data.size else None
    except (cv2.error, ValueError):
        array = None
    if array is not None and 0 < bits < 8:
        array = array // (255 // (2**bits - 1))  # OpenCV stretches grey of few bits to 0-255
    if array is None:
        raise why_not(path, data, what)
    return array


def sliver_of(path: Path) -> int:
    """The largest value of a 16-bit image that uses an eighth of its range at most, which is read as almost black.

    0 for every other image, and what cannot be read.
    """
    with contextlib.suppress(OSError, ReinError, cv2.error):
        with open(path, "rb") as file:
            start = file.read(26)
        if not (start[:4] in TIFF or (start[:8] == PNG_SIGNATURE and start[24:25] == b"\x10")):
            return 0
        with opencv_silent():
            stored = cv2.imdecode(read_bytes(path, "image"), cv2.IMREAD_UNCHANGED)
        if stored is not None and stored.dtype == np.uint16:
            largest = int(stored.max(initial=0))
            return largest if 255 < largest <= SLIVER else 0
    return 0


def sliver_remark(path: Path, largest: int) -> str:
    """A sentence on an image of which `sliver_of` tells a value."""
    return (
        f"'{path}' has 16 bits and no value above {largest}, {(largest + 1) / 65536:.1%} of their range: it is "
        f"read as almost black. Multiply its values by {65536 // (largest + 1)}, or save it with 8 bits."
    )


def _has_end(data: np.ndarray) -> bool:
    """Whether a PNG has its last chunk, which is at its end, or before what somebody wrote behind it."""
    return b"IEND" in data[-12:].tobytes() or b"IEND" in data.tobytes()


def _few_bits(data: np.ndarray) -> tuple[int, bool]:
    """Bits that a value of a palette or grey PNG takes, and whether it has a palette; (0, False) for other files."""
    header = data[:26].tobytes()
    if header[:8] != PNG_SIGNATURE or len(header) < 26 or header[25] not in (_GREY, _PALETTE):
        return 0, False
    return header[24], header[25] == _PALETTE


def _palette_to_grey(data: np.ndarray) -> np.ndarray:
    """A palette PNG declared as a grey one: OpenCV would decode the colours, not the indices.

    The compressed pixels are the same bytes in both kinds; header and checksum change, the palette goes.
    """
    raw = data.tobytes()
    chunks = [PNG_SIGNATURE]
    start = len(PNG_SIGNATURE)
    while start + 12 <= len(raw):
        stop = start + 12 + int.from_bytes(raw[start : start + 4], "big")
        kind = raw[start + 4 : start + 8]
        if kind == b"IHDR":
            header = kind + raw[start + 8 : start + 17] + b"\x00" + raw[start + 18 : start + 21]
            chunks.append(raw[start : start + 4] + header + zlib.crc32(header).to_bytes(4, "big"))
        elif kind in (b"IDAT", b"IEND"):
            chunks.append(raw[start:stop])
        start = stop
    return np.frombuffer(b"".join(chunks), np.uint8)


def read_image(path: Path, shrink: int = 1, *, turn: bool = True) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB 0-255; grey, alpha, 16-bit and EXIF rotation are resolved.

    Args:
        path: the file.
        shrink: 1, or 2, 4, 8 for an image of that part of the size, which JPEG decoders give for less.
        turn: False: an EXIF note on how the camera was held is ignored.

    Raises:
        ReinError: no such file, no permission, or not decodable.
    """
    flags = _SHRUNK[shrink] | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(_decode(path, flags, "image"), cv2.COLOR_BGR2RGB)


def read_image_like(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An image file as `read_image` gives it, lying as something of (height, width) `size` does.

    Where an EXIF note turns the image away from that size and the image as stored fits, the note is ignored:
    labels are often drawn on the image as stored.
    """
    image = read_image(path)
    if image.shape[:2] == size or image.shape[:2] != size[::-1]:
        return image
    stored = read_image(path, turn=False)
    return stored if stored.shape[:2] == size else image


def jpeg_turn(path: Path) -> int:
    """The EXIF note on how the camera was held: 1 (upright, or no note) to 8."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            turn = opened.getexif().get(_ORIENTATION, 1)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1
    return turn if turn in range(1, 9) else 1


def with_turn(jpeg: bytes, turn: int) -> bytes:
    """A JPEG file with an EXIF note on how the camera was held."""
    note = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, _ORIENTATION, 3, 1, turn, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note + jpeg[2:]


def is_whole_png(path: Path) -> bool:
    """Whether a file is there and a PNG whose parts all have the checksum that stands behind them."""
    try:
        return is_whole_png_data(path.read_bytes())
    except OSError:
        return False


def is_whole_png_data(data: bytes) -> bool:
    """`is_whole_png` of the bytes of a file."""
    if not data.startswith(PNG_SIGNATURE):
        return False
    start = len(PNG_SIGNATURE)
    while start + 12 <= len(data):
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if zlib.crc32(data[start + 4 : stop - 4]).to_bytes(4, "big") != data[stop - 4 : stop]:
            return False
        if data[start + 4 : start + 8] == b"IEND":
            return True
        start = stop
    return False


def read_stored(path: Path) -> np.ndarray:
    """A label file as stored: (H, W) or (H, W, channels), uint8 or uint16, channels in OpenCV's order.

    Palette PNGs give their indices, not their colours; grey ones of 1, 2 or 4 bits the values as stored.

    Raises:
        ReinError: no such file, no permission, not decodable, or of a lossy kind, whose values are not those written.
    """
    stored = _decode(path, cv2.IMREAD_UNCHANGED, "label", indices=True)
    lossy = lossy_kind(path)
    if lossy:
        raise ReinError(
            f"The label '{path}' is a {lossy}: its compression changes values at every edge.",
            f"Get the labels as PNG, from where they were painted; converting the {lossy.split()[-1]} does not bring "
            "them back.",
        )
    return stored


def read_label(path: Path) -> np.ndarray:
    """A label map as (H, W) uint8, values as stored (palette indices of palette PNGs).

    Raises:
        ReinError: not readable, more than one channel (a colour picture, no label map), or values over 255.
    """
    label = read_stored(path)
    if label.ndim != 2:
        raise ReinError(
            f"The label '{path}' has {label.shape[2]} channels; expected one channel of class indices.",
            "It looks like a colour picture: point at the index labels, or prepare the dataset first.",
        )
    if label.dtype != np.uint8:
        if label.max(initial=0) > 255:
            raise ReinError(
                f"The label '{path}' has value {label.max()}; expected 0 to 255.",
                "Such values number objects, not classes: give the labels of the classes, in 8 bits."
                if label.max() >= OBJECTS
                else "Write the classes anew with indices from 0 on, 255 for what has none.",
            )
        label = label.astype(np.uint8)
    return label


def write_png(path: Path, array: np.ndarray, compression: int = 1, mark: str = "") -> None:
    """Write (H, W) uint8/uint16 or (H, W, 3) uint8 RGB as PNG: temporary file, flush, rename.

    Args:
        path: of the file. array: the picture. compression: 0 to 9.
        mark: kept in the file as its comment, see `outputs.mark`; '': none.

    Raises:
        ReinError: no permission or no space; nothing half-written is left.
    """
    picture = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    options = [cv2.IMWRITE_PNG_COMPRESSION, compression]
    if array.ndim == 2 and hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV before 4.11 has no such choice
        # label maps: a third of the time and of the bytes when left unfiltered
        options = [
            cv2.IMWRITE_PNG_COMPRESSION,
            max(compression, 3),
            cv2.IMWRITE_PNG_FILTER,
            cv2.IMWRITE_PNG_FILTER_NONE,
        ]
    ok, encoded = cv2.imencode(".png", picture, options)
    if not ok:
        raise ValueError(f"cannot encode an array of shape {array.shape}, {array.dtype} as PNG")
    write_bytes(path, with_comment(encoded.tobytes(), mark))


def with_comment(png: bytes, text: str) -> bytes:
    """A PNG with a comment behind its header; as it is where the text is empty."""
    if not text:
        return png
    chunk = b"tEXt" + b"Comment\0" + text.encode("latin-1")
    whole = struct.pack(">I", len(chunk) - 4) + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return png[:_PNG_HEAD] + whole + png[_PNG_HEAD:]

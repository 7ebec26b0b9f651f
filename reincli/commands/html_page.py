"""The shell of the HTML pages: one file that opens without any other, pictures inside it."""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np

from reincli.media.outputs import mark
from reincli.media.sheet import fit_width

QUALITY = 85
"""Of the pages' JPEGs."""


def page(title: str, style: str, body: str, maker: str) -> str:
    """A whole document.

    Args:
        title: plain text.
        style: CSS.
        body: HTML; what comes from outside is escaped in it already.
        maker: name of the command, for its mark (`media.outputs`).
    """
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{mark(maker)}"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>'
        f"<body>{body}</body></html>\n"
    )
    return text.encode("utf-8", "replace").decode()  # names of files need not be UTF-8


def image(data: bytes, kind: str, text: str = "") -> str:
    """An `<img>` that carries its own file.

    Args:
        data: the file.
        kind: 'jpeg' or 'png'.
        text: what is read out instead of it, plain.
    """
    encoded = base64.b64encode(data).decode("ascii")
    return f'<img alt="{escape(text, quote=True)}" src="data:image/{kind};base64,{encoded}">'


def jpeg(picture: np.ndarray, width: int) -> bytes:
    """The file of an (H, W, 3) uint8 RGB picture at another width, its ratio kept."""
    small = cv2.cvtColor(fit_width(picture, width), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()

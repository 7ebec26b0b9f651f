"""What generated streets are drawn on: picture, label map, depth and light of their own, through one camera.

World coordinates are metres: x to the right, y up from the road, z forward. Colours are RGB 0-255. Everything is
painted from far to near, and whatever is painted into the picture is painted into the label in the same call, so
the label is exact by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Color = tuple[int, int, int]
Point = tuple[float, float, float]

SHIFT = 4
"""Fractional bits of the coordinates given to OpenCV."""
FAR = 1000.0
"""Depth of the sky in metres."""
NEAREST = 1.0
"""Points nearer than this many metres are drawn at this distance."""


def _circle(corners: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


CIRCLE, COARSE_CIRCLE = _circle(18), _circle(8)
"""Corners of a unit circle, (n, 2)."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal length and vanishing point in pixels, height in metres, bend of the street.

    `bend` shifts the street sideways by `bend * z**2`: a curve as seen from its beginning.
    """

    focal: float
    center: float
    horizon: float
    height: float
    bend: float

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """A point of the street's own coordinates as (column, row) in pixels."""
        z = max(z, NEAREST)
        column = self.center + self.focal * (x + self.bend * z * z) / z
        return column, self.horizon + self.focal * (self.height - y) / z

    def scale(self, z: float) -> float:
        """Pixels a metre at a distance."""
        return self.focal / max(z, NEAREST)


class Canvas:
    """Arrays of one picture, (height, width): `image` and `glow` RGB uint8, `label` ids uint8, `depth` metres."""

    def __init__(self, width: int, height: int, camera: Camera) -> None:
        self.camera = camera
        self.image = np.zeros((height, width, 3), np.uint8)
        self.glow = np.zeros((height, width, 3), np.uint8)
        self.label = np.zeros((height, width), np.uint8)
        self.depth = np.full((height, width), FAR, np.float32)

    def shape(
        self,
        outline: Sequence[tuple[float, float]] | np.ndarray,
        color: Color,
        label: int | None,
        z: float,
        glow: Color = (0, 0, 0),
    ) -> None:
        """Fill a polygon of (column, row) points. label None: a detail on what is already labelled."""
        fixed = _fixed(outline)
        cv2.fillPoly(self.image, [fixed], color, cv2.LINE_AA, SHIFT)
        if label is not None:
            cv2.fillPoly(self.label, [fixed], label, cv2.LINE_8, SHIFT)
            cv2.fillPoly(self.depth, [fixed], z, cv2.LINE_8, SHIFT)
        if label is not None or any(glow):
            cv2.fillPoly(self.glow, [fixed], glow, cv2.LINE_8, SHIFT)

    def face(
        self, corners: Sequence[Point], color: Color, label: int | None, glow: Color = (0, 0, 0)
    ) -> None:
        """Fill a flat polygon of world points."""
        z = float(np.mean([corner[2] for corner in corners]))
        self.shape([self.camera.project(*corner) for corner in corners], color, label, z, glow)

    def ellipse(
        self,
        center: tuple[float, float],
        axes: tuple[float, float],
        color: Color,
        label: int | None,
        z: float,
        glow: Color = (0, 0, 0),
    ) -> None:
        """Fill an upright ellipse; center and half axes in pixels."""
        circle = COARSE_CIRCLE if max(axes) < 3 else CIRCLE
        self.shape(circle * axes + center, color, label, z, glow)

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        width: float,
        color: Color,
        label: int | None,
        z: float,
    ) -> None:
        """A bar of some width in pixels, at least one pixel wide, from one point to another."""
        direction = np.subtract(end, start)
        length = float(np.hypot(*direction)) or 1.0
        across = np.array([-direction[1], direction[0]]) / length * max(width, 1.0) / 2
        outline = np.stack([start + across, end + across, end - across, start - across])
        self.shape(outline, color, label, z)

    def wall(
        self,
        left: tuple[float, float],
        right: tuple[float, float],
        height: float,
        texture: np.ndarray,
        label: int,
        light: np.ndarray | None = None,
        opacity: np.ndarray | None = None,
    ) -> None:
        """A textured upright rectangle from one ground point (x, z) to another.

        Args:
            left, right: (x, z) of the two feet.
            height: metres.
            texture: (h, w, 3) uint8, its left edge at `left`.
            label: of the whole rectangle.
            light: what shines by itself, like `texture`.
            opacity: (h, w) uint8, 255 where the texture hides what is behind it (fences).
        """
        (x0, z0), (x1, z1) = left, right
        corners = [(x0, height, z0), (x1, height, z1), (x1, 0.0, z1), (x0, 0.0, z0)]
        outline = np.array([self.camera.project(*corner) for corner in corners], np.float32)
        rows, columns = self.label.shape
        low = np.floor(outline.min(0)).astype(int).clip(0, [columns, rows])
        high = np.ceil(outline.max(0)).astype(int).clip(0, [columns, rows]) + 0
        if (high - low < 1).any():
            return
        box = (slice(low[1], high[1]), slice(low[0], high[0]))
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        inside = np.zeros(size[::-1], np.uint8)
        cv2.fillPoly(inside, [_fixed(outline - low)], 255, cv2.LINE_8, SHIFT)
        shown = inside
        move = _homography(texture, outline - low)
        if opacity is not None:
            shown = cv2.min(inside, cv2.warpPerspective(opacity, move, size, flags=cv2.INTER_LINEAR))
        weight = shown[..., None].astype(np.uint16)
        drawn = cv2.warpPerspective(texture, move, size, borderMode=cv2.BORDER_REPLICATE)
        self.image[box] = (self.image[box] * (255 - weight) + drawn * weight) // 255
        mask = inside > 0
        self.label[box][mask] = label
        self.depth[box][mask] = _wall_depth(outline[0, 0], outline[1, 0], z0, z1, low[0], inside.shape)[mask]
        self.glow[box][mask] = 0
        if light is not None:
            shine = cv2.warpPerspective(light, move, size, borderMode=cv2.BORDER_REPLICATE)
            self.glow[box][mask] = shine[mask]


def _fixed(outline: Sequence[tuple[float, float]] | np.ndarray) -> np.ndarray:
    """Points in the fixed-point form of OpenCV, far ones pulled in."""
    points = np.asarray(outline, np.float64) * (1 << SHIFT)
    return np.rint(np.minimum(np.maximum(points, -48000), 48000)).astype(np.int32)


def _homography(texture: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """The map of a whole texture onto four points, clockwise from top left."""
    height, width = texture.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return cv2.getPerspectiveTransform(corners, outline.astype(np.float32))


def _wall_depth(
    column0: float, column1: float, z0: float, z1: float, first: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Depth of an upright rectangle at every pixel: 1/z is linear across the columns."""
    z0, z1 = max(z0, NEAREST), max(z1, NEAREST)
    share = (first + 0.5 + np.arange(shape[1]) - column0) / (column1 - column0 or 1.0)
    inverse = 1 / z0 + np.clip(share, 0, 1) * (1 / z1 - 1 / z0)
    return np.broadcast_to((1 / inverse).astype(np.float32), shape)

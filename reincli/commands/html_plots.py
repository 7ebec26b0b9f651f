"""Small plots for the HTML pages: lines in a square, as SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SIDE, LEFT, TOP, LOW = 300, 46, 8, 40
"""Of the square in pixels, and room beside it for numbers and names."""
COLOURS = ("#2060a0", "#d6481c", "#2a8a57", "#8a4fb0", "#b08a00", "#4a4f57")
"""Of the lines, in their order; more lines begin again."""
STYLE = """
.plots{display:flex;flex-wrap:wrap;gap:8px 32px}.plot figcaption{display:flex;flex-wrap:wrap;gap:2px 14px;
 padding-left:46px;max-width:360px}.plot i{display:inline-block;width:14px;height:3px;margin-right:5px;
 vertical-align:middle}
"""


@dataclass(frozen=True)
class Line:
    """A line through points, each 0 to 1; `dots`: points are marked; `bars`: shares drawn as bars from below."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False
    bars: Sequence[float] = ()


def plot(
    lines: Sequence[Line], across: str, up: str, *, diagonal: bool = False, level: float | None = None
) -> str:
    """Lines in a square from 0 to 100 % both ways, their names below.

    Args:
        lines: what is drawn. across, up: what the axes are.
        diagonal: a dashed line where both are equal. level: a dashed line at this height, 0 to 1.
    """
    title = escape(f"{up} over {across}", quote=True)
    size = f'viewBox="0 0 {LEFT + SIDE + 16} {TOP + SIDE + LOW}" width="{LEFT + SIDE + 16}"'
    parts = [f'<svg {size} role="img" aria-label="{title}">', *_grid(across, up)]
    dashed = [[(0.0, 0.0), (1.0, 1.0)]] if diagonal else []
    dashed += [[(0.0, level), (1.0, level)]] if level is not None else []
    parts += [_path(points, "#9aa1a9", 'stroke-dasharray="4 4"') for points in dashed]
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        parts += [_bar(place, len(line.bars), share, colour) for place, share in enumerate(line.bars)]
        points = list(zip(line.x, line.y, strict=True))
        parts.append(_path(points, colour, 'stroke-width="1.8"'))
        for x, y in (_place(*point) for point in points if line.dots):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    names = "".join(
        f'<span><i style="background:{COLOURS[index % len(COLOURS)]}"></i>{escape(line.name)}</span>'
        for index, line in enumerate(lines)
    )
    return f"<figure class=plot>{''.join(parts)}</svg><figcaption>{names}</figcaption></figure>"


def _grid(across: str, up: str) -> list[str]:
    parts = []
    for step in range(0, 101, 20):
        (x, low), (left, y) = _place(step / 100, 0), _place(0, step / 100)
        parts.append(
            f'<path d="M{x:.1f} {TOP}V{low}M{left} {y:.1f}H{LEFT + SIDE}" stroke="#e6e9ed" fill="none"/>'
            + _text(x, low + 16, str(step))
            + _text(LEFT - 16, y + 4, str(step))
        )
    middle = TOP + SIDE / 2
    turned = f'transform="rotate(-90 12 {middle})"'
    return [*parts, _text(LEFT + SIDE / 2, TOP + SIDE + 34, across), _text(12, middle, up, turned)]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    ink = 'font-size="11" text-anchor="middle" fill="#50575f"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {ink} {more}>{escape(text)}</text>'


def _place(x: float, y: float) -> tuple[float, float]:
    return LEFT + SIDE * min(max(x, 0.0), 1.0), TOP + SIDE * (1 - min(max(y, 0.0), 1.0))


def _path(points: Sequence[tuple[float, float]], colour: str, more: str) -> str:
    way = "L".join(f"{x:.1f} {y:.1f}" for x, y in (_place(*point) for point in points))
    return f'<path d="M{way}" stroke="{colour}" fill="none" {more}/>' if points else ""


def _bar(place: int, count: int, share: float, colour: str) -> str:
    left, top = _place(place / count, share)
    size = f'width="{SIDE / count - 2:.1f}" height="{TOP + SIDE - top:.1f}"'
    return f'<rect x="{left + 1:.1f}" y="{top:.1f}" {size} fill="{colour}" opacity="0.13"/>'

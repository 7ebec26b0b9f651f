"""Resampling: position grids and patch kernels (bicubic), and maps too large to resize at once (bilinear).

All of it half-pixel and never antialiased, as the method does; other libraries antialias positions or rescale
kernels, which gives other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_grid(grid: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Bicubic (or `mode`) resize of (h, w, C) to (size[0], size[1], C)."""
    if tuple(grid.shape[:2]) == size:
        return grid
    resized = F.interpolate(grid.float().permute(2, 0, 1)[None], size=size, mode=mode, align_corners=False)
    return resized[0].permute(1, 2, 0).contiguous()


def stretch_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resize of (h, w, C) by the factors (n + 0.1) / n_stored, as DINOv2 does for inputs of another size.

    The factor, not the size, decides where is sampled, so the result differs a little from `resize_grid`.
    """
    factors = [(n + 0.1) / stored for n, stored in zip(size, grid.shape[:2], strict=True)]
    resized = F.interpolate(
        grid.permute(2, 0, 1)[None], scale_factor=factors, mode="bicubic", recompute_scale_factor=False
    )
    assert resized.shape[2:] == size, f"{tuple(resized.shape[2:])} is not {size}"
    return resized[0].permute(1, 2, 0).contiguous()


def resize_kernel(kernel: Tensor, patch: int) -> Tensor:
    """Bicubic resize of a patch embedding (C, 3, p, p) to (C, 3, patch, patch)."""
    if kernel.shape[-1] == patch and kernel.shape[-2] == patch:
        return kernel
    return F.interpolate(kernel.float(), size=(patch, patch), mode="bicubic", align_corners=False)


def resize_positions(
    positions: Tensor, prefix: int, stored: tuple[int, int], size: tuple[int, int], mode: str = "bicubic"
) -> Tensor:
    """Resize the grid part of (1, prefix + h*w, C) position embeddings from `stored` to `size`; prefix kept."""
    if stored == size:
        return positions
    head, body = positions[:, :prefix], positions[0, prefix:]
    grid = resize_grid(body.reshape(*stored, -1), size, mode)
    return torch.cat([head, grid.reshape(1, size[0] * size[1], -1).to(head.dtype)], dim=1)


def resized_bands(maps: Tensor, size: tuple[int, int], rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Bilinear resize of (..., h, w) to (..., H, W), a band of rows at a time.

    Yields:
        (which rows of the result, (..., up to `rows`, W)); put together they equal `F.interpolate` at once.
    """
    if tuple(maps.shape[-2:]) == size:
        for top in range(0, size[0], rows):
            part = slice(top, min(top + rows, size[0]))
            yield part, maps[..., part, :]
        return
    source, width = maps.shape[-2], size[1]
    scale = source / size[0]
    above, below, share = corner_weights(source, size[0], maps.device)
    share = share.to(maps.dtype)[:, None]
    for top in range(0, size[0], rows):
        part = slice(top, min(top + rows, size[0]))
        # the rows that the band reads, and one more each way against rounding; reckoned here: no wait for the device
        first = max(0, math.floor((part.start + 0.5) * scale - 0.5) - 1)
        last = min(source, math.floor((part.stop - 0.5) * scale - 0.5) + 3)
        wide = _widened(maps[..., first:last, :], width)
        yield (
            part,
            torch.lerp(wide[..., above[part] - first, :], wide[..., below[part] - first, :], share[part]),
        )


def corner_weights(
    source: int, target: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a bilinear resize along one side: index before and after each new place, and the share of the latter.

    Args:
        source, target: old and new length.

    Returns:
        Two (target,) int64 and one (target,) float32 of 0-1.
    """
    centre = (torch.arange(target, device=device) + 0.5) * (source / target) - 0.5
    centre = centre.clamp(min=0)
    before = centre.floor().long().clamp(max=source - 1)
    return before, (before + 1).clamp(max=source - 1), centre - before


def _widened(maps: Tensor, width: int) -> Tensor:
    """Bilinear resize of (..., h, w) to (..., h, width)."""
    if maps.shape[-1] == width:
        return maps
    height = maps.shape[-2]
    flat = maps.reshape(1, -1, height, maps.shape[-1])
    resized = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)
    return resized.view(*maps.shape[:-1], width)

"""Windows of many images through a model in batches, and what happens where a batch does not fit into memory.

K classes, (H, W) an image, (h, w) a window of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reincli.engine.device import available_memory, is_out_of_memory, release_cache
from reincli.errors import ReinError
from reincli.ops.parts import part
from reincli.ops.window import WindowAverage, window_boxes

Box = tuple[int, int, int, int]
"""(top, bottom, left, right)."""

BYTES_PER_PIXEL = 4096
"""Memory that a window's pixel takes in the model, twice what a ViT-L was seen to take in fp32."""
USUAL = {"cuda": 16, "mps": 4, "cpu": 2}
"""Windows beyond which a batch gains nothing."""


class OutOfMemoryError(ReinError):
    """Not even one window fits."""


class Budget:
    """How many windows run at once: as set, or by the memory at hand; halved whenever memory runs out.

    Args:
        device: where the model runs.
        chosen: windows in one batch; None: by memory.
        tell: called with one line where the number is reduced.
    """

    def __init__(self, device: torch.device, chosen: int | None, tell: Callable[[str], None]) -> None:
        self.device, self.chosen, self.tell = device, chosen, tell
        self.memory = available_memory(device)
        self.most_pixels: int | None = None

    def windows(self, height: int, width: int) -> int:
        """Windows of a size in one batch, at least 1."""
        most = self.chosen or USUAL[self.device.type]
        if self.chosen is None and self.memory is not None:
            most = min(most, self.memory // (height * width * BYTES_PER_PIXEL))
        if self.most_pixels is not None:
            most = min(most, self.most_pixels // (height * width))
        return max(1, most)

    def halve(self, count: int, height: int, width: int) -> None:
        """A batch of `count` windows did not fit.

        Raises:
            ReinError: it was one window.
        """
        if count == 1:
            raise OutOfMemoryError(
                f"Out of memory with a single window of {width}x{height} on '{self.device}'.",
                "Use smaller windows (--mode slide, --set test.window=512 --set test.stride=341), a smaller --size, "
                "or --precision bf16.",
            )
        self.most_pixels = count // 2 * height * width
        self.tell(
            f"Out of memory with {count} windows of {width}x{height}: going on with {self.windows(height, width)}."
        )


@dataclass
class _Image:
    """An image whose windows are under way; `left` of them are still to come."""

    pixels: Tensor
    left: int
    average: WindowAverage | None = None
    maps: Tensor | None = None

    def take(self, maps: Tensor, box: Box) -> None:
        """Add the maps of a window at its place."""
        self.left -= 1
        if self.average is None:
            self.maps = maps
        else:
            self.average.add(maps, box)

    @torch.inference_mode()
    def done(self) -> Tensor:
        """The maps of the whole image: the mean where windows overlap."""
        return self.average.mean() if self.average is not None else self.maps  # type: ignore[return-value]


@dataclass(frozen=True)
class Slider:
    """Cuts images into windows and puts the model's maps together.

    Attributes:
        forward: (B, 3, h, w) uint8 -> (B, K, h, w).
        channels: K.
        budget: how many windows at once.
        across: whether a batch may hold windows of several images. Sums of a batch of another shape may round in
            another way, so where batches gain nothing each image is on its own: its numbers are its own then.
    """

    forward: Callable[[Tensor], Tensor]
    channels: int
    budget: Budget
    across: bool

    def stream(self, images: Iterable[Tensor], window: int | None, stride: int) -> Iterator[Tensor]:
        """Maps of each image, in their order.

        Args:
            images: (3, H, W) uint8 RGB of any sizes; taken only as far as the batches need.
            window, stride: in pixels; window None: the whole image at once.

        Yields:
            (K, H, W) float32 on the device, averaged where windows overlap.
        """
        waiting: deque[_Image] = deque()
        batch: list[tuple[_Image, Box]] = []
        for pixels in images:
            image, boxes = self._open(pixels, window, stride)
            waiting.append(image)
            for box in boxes:
                shape = _shape(box)
                if batch and _shape(batch[0][1]) != shape:
                    self._flush(batch)
                batch.append((image, box))
                if len(batch) >= self.budget.windows(*shape):
                    self._flush(batch)
            if not self.across:
                self._flush(batch)
            while waiting and not waiting[0].left:
                yield waiting.popleft().done()
        self._flush(batch)
        for image in waiting:
            yield image.done()

    def _open(self, pixels: Tensor, window: int | None, stride: int) -> tuple[_Image, list[Box]]:
        height, width = pixels.shape[1:]
        boxes = [(0, height, 0, width)] if window is None else window_boxes(height, width, window, stride)
        device = self.budget.device
        image = _Image(pixels.to(device, non_blocking=device.type == "cuda"), len(boxes))
        if len(boxes) > 1:
            with torch.inference_mode():
                image.average = WindowAverage(self.channels, height, width, device)
        return image, boxes

    def _flush(self, batch: list[tuple[_Image, Box]]) -> None:
        """Run a batch of windows of one shape and empty it."""
        start = 0
        while start < len(batch):
            shape = _shape(batch[start][1])
            some = batch[start : start + self.budget.windows(*shape)]
            maps = self._attempt(some)
            if maps is None:
                self.budget.halve(len(some), *shape)
                continue
            with torch.inference_mode(), part("output"):
                for each, (image, box) in zip(maps, some, strict=True):
                    image.take(each, box)
            start += len(some)
        batch.clear()

    def _attempt(self, some: Sequence[tuple[_Image, Box]]) -> Tensor | None:
        """Maps of some windows, or None where memory ran out; what was taken on the way is given back then."""
        try:
            with torch.inference_mode():
                return self.forward(
                    torch.stack([image.pixels[:, t:b, left:right] for image, (t, b, left, right) in some])
                )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release_cache(self.budget.device)
        return None


def _shape(box: Box) -> tuple[int, int]:
    return box[1] - box[0], box[3] - box[2]

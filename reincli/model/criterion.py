"""Training loss of Mask2Former for semantic segmentation (arXiv 2112.01527, sections 3.3 and 4.1).

Shapes: R rounds, B images, Q queries, K classes, P = matched pairs of the batch, n points, D channels.

Nothing of size (queries x map) is built: the matching cost needs the masks at its points only (a mask is a linear
map of the mask features, so the features are sampled and then multiplied), the loss needs the matched masks only.
All rounds and images of a step are assigned after one copy to the host.

Labels that are not certain (`rein adapt`) bring a weight w of 0 to 1 a pixel. In the matching, pixels of no weight do
not count. A mask's points carry it: the uncertain ones are chosen by |logit| / w, their cross-entropy is w times as
large, and the sums in dice are sums of w. Dice as a whole, being a ratio, and the cross-entropy of a query's class are
multiplied by the mean weight of the segment's pixels, for "no object" by that of all pixels that have a class. Divisors
stay, so that less certain labels weigh less. With all weights 1 every loss is what it is without them, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reincli.model.mask_decoder import Predictions
from reincli.ops.matching import assign, pair_cost
from reincli.ops.parts import part
from reincli.ops.points import (
    most_uncertain,
    nearest_pixels,
    neighbours,
    sample_maps,
    sample_membership,
    sample_rows,
)
from reincli.ops.pseudo import class_pixels

OVERSAMPLING, UNCERTAIN_SHARE = 3, 0.75
"""Of 3 n uniform candidates the 0.75 n most undecided are trained on; the rest are drawn anew."""
POINTS_AT_ONCE = {"cpu": 2**20, "gpu": 2**24}
"""Candidates that are sampled in one go: a GPU wants few large pieces, a CPU has little memory to spare."""
MATCHED_AT_ONCE = {"cpu": 1, "gpu": 2**18}
"""Points at which masks are matched in one go, over rounds and images; a round at least."""
NO_OBJECT_WEIGHT = 0.1
CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0

PointSource = Callable[[str, int, tuple[int, ...]], Tensor]
"""(use, round, shape) -> uniform numbers in [0, 1) of that shape. Uses: 'match' (B, n, 2), 'oversample' and 'fresh'
(P, n, 2)."""


def uniform_points(device: torch.device, seed: int | None = None) -> PointSource:
    """Random points; the same for the same seed, fresh ones for None.

    On the CPU numpy draws them, several times as fast as torch's one-threaded generator.
    """
    if device.type == "cpu":
        rng = np.random.Generator(np.random.SFC64(seed))
        return lambda use, round_, shape: torch.from_numpy(rng.random(shape, dtype=np.float32))
    generator = torch.Generator(device)
    generator.seed() if seed is None else generator.manual_seed(seed)
    return lambda use, round_, shape: torch.rand(shape, device=device, generator=generator)


@dataclass(frozen=True)
class Targets:
    """What is to be found in a batch.

    Attributes:
        labels: (B, H, W) class indices; `ignore` is no class, but its pixels count against every mask.
        padded: (B, T) the classes present in each image, ascending, T the most that one has; then zeros.
        on_host: the same as arrays, without padding.
        weights: (B, H, W) float32, how certain each pixel's label is, 0 to 1; None: all are.
    """

    labels: Tensor
    padded: Tensor
    on_host: list[np.ndarray]
    weights: Tensor | None = None

    @property
    def pairs(self) -> int:
        """P: targets of the whole batch."""
        return sum(len(present) for present in self.on_host)

    @property
    def divisor(self) -> float:
        """What mask and dice losses are divided by, before a mean over processes.

        An image without a target counts as one pair: so the original divides, and so its numbers come out.
        """
        return float(sum(max(1, len(present)) for present in self.on_host))


def targets_of(labels: Tensor, classes: int, device: torch.device | None = None) -> Targets:
    """Read the classes present in each image of (B, H, W) labels; values from `classes` on are no class.

    Labels that are still on the host cost no wait for the device; they are sent to `device` afterwards.
    """
    on_host = [
        np.flatnonzero(np.bincount(image.ravel(), minlength=classes)[:classes])
        for image in labels.cpu().numpy()
    ]
    target = device or labels.device
    return targets_with(labels.to(target, non_blocking=target.type == "cuda"), on_host)


def targets_with(labels: Tensor, on_host: list[np.ndarray], weights: Tensor | None = None) -> Targets:
    """Targets of labels on the device whose classes the host knows already, as `Targets` has them."""
    padded = np.zeros((len(on_host), max(len(present) for present in on_host)), np.int64)
    for row, present in zip(padded, on_host, strict=True):
        row[: len(present)] = present
    return Targets(labels, send(padded, labels.device), on_host, weights)


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on the device, without waiting for a device that can go on meanwhile."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


Matches = list[list[tuple[np.ndarray, np.ndarray]]]
"""[round][image] -> (queries ascending, index into the image's targets)."""


def mask2former_loss(
    predictions: Predictions,
    targets: Targets,
    draw: PointSource | None = None,
    *,
    count: int = 12_544,
    divisor: float | None = None,
) -> tuple[dict[str, Tensor], Matches]:
    """Thirty losses: class, mask and dice of every round, equally weighted.

    Args:
        predictions: of all rounds.
        targets: of the batch.
        draw: where random points come from; None: fresh random numbers.
        count: n, points on which a mask is matched and trained: 112 x 112.
        divisor: of mask and dice loss, a mean over processes; None: that of these targets.

    Returns:
        Losses by name ('loss_cls', 'loss_mask', 'loss_dice' of the last round, 'd0.loss_cls', ... of round 0 on),
        each a 0-d tensor, weights included; and who was matched with whom.
    """
    draw = draw or uniform_points(predictions.class_logits.device)
    divisor = divisor or targets.divisor
    with torch.autocast(predictions.class_logits.device.type, enabled=False):
        with part("matching"):
            matches = match(predictions, targets, draw, count)
        logits = predictions.class_logits.float()
        means = None if targets.weights is None else segment_weights(targets, logits.shape[-1] - 1)
        class_losses = _class_losses(logits, targets, matches, means)
        mask_losses, dice_losses = _mask_losses(predictions, targets, matches, draw, count, means)
    losses = {}
    last = len(matches) - 1
    for index in range(len(matches)):
        prefix = "" if index == last else f"d{index}."
        losses[f"{prefix}loss_cls"] = CLASS_WEIGHT * class_losses[index]
        losses[f"{prefix}loss_mask"] = MASK_WEIGHT * mask_losses[index] / divisor
        losses[f"{prefix}loss_dice"] = DICE_WEIGHT * dice_losses[index] / divisor
    return losses, matches


@torch.no_grad()
def match(predictions: Predictions, targets: Targets, draw: PointSource, count: int) -> Matches:
    """Give each target one query, in every round and image."""
    rounds, batch = predictions.class_logits.shape[:2]
    if targets.pairs == 0:
        nobody = np.zeros(0, np.int64)
        return [[(nobody, nobody)] * batch for _ in range(rounds)]
    shared = None if predictions.by_round else _rows(predictions.mask_features)
    limit = MATCHED_AT_ONCE["cpu" if predictions.class_logits.device.type == "cpu" else "gpu"]
    step = max(1, limit // (batch * count))
    costs = []
    for first in range(0, rounds, step):
        last = min(first + step, rounds)
        where = torch.stack([draw("match", index, (batch, count, 2)) for index in range(first, last)])
        logits = predictions.class_logits[first:last].float()
        features = shared if shared is not None else _rows(predictions.mask_features[first:last])
        sampled = _features_at(features, predictions.mask_features.shape[-2:], where)
        masks = predictions.mask_embeddings[first:last].float() @ sampled.mT
        classes = targets.padded.expand(last - first, -1, -1)
        counted = None if targets.weights is None else (_weights_at(targets.weights, where) > 0).float()
        costs.append(pair_cost(logits, masks, classes, _targets_at(targets, where), counted).flatten(0, 1))
    assigned = assign(torch.cat(costs), [len(present) for present in targets.on_host] * rounds)
    return [assigned[index * batch : (index + 1) * batch] for index in range(rounds)]


def _rows(features: Tensor) -> Tensor:
    """Mask features as rows of channels in fp32: (..., D, h, w) -> (..., h*w, D)."""
    return features.float().flatten(-2).transpose(-1, -2).contiguous()


def _features_at(features: Tensor, size: Sequence[int], where: Tensor) -> Tensor:
    """Mask features of size (h, w) at points of each round and image: (R, B, n, 2) -> (R, B, n, D).

    Features are (B, h*w, D) for all rounds, or (R, B, h*w, D).
    """
    index, weight = _neighbours(where, size)
    if features.ndim == 4:
        rounds, maps = features.shape[0], features.shape[1] * features.shape[2]
        index = index + torch.arange(rounds, device=index.device)[:, None, None] * maps
    sampled = sample_rows(features.flatten(0, -2), index.flatten(1), weight.flatten(1))
    return sampled.view(*where.shape[:3], -1)


def _targets_at(targets: Targets, where: Tensor) -> Tensor:
    """Masks of each image's classes at points: (R, B, n, 2) -> (R, B, T, n) in 0..1."""
    index, weight = _neighbours(where, targets.labels.shape[1:])
    return sample_membership(
        targets.labels, targets.padded[:, :, None], index[:, :, :, None], weight[:, :, :, None]
    )


def _weights_at(weights: Tensor, where: Tensor) -> Tensor:
    """Weights of the pixels that points of each round and image lie in: (B, H, W), (R, B, n, 2) -> (R, B, n)."""
    index = nearest_pixels(where, *weights.shape[1:])
    return weights.flatten(1).expand(len(where), -1, -1).gather(2, index)


def segment_weights(targets: Targets, classes: int) -> Tensor:
    """Mean weight of the pixels of each class in each image, last of all pixels that have a class: (B, K + 1) float32.

    0 where there are none.
    """
    assert targets.weights is not None
    pixels = class_pixels(targets.labels, classes)
    weight = class_pixels(targets.labels, classes, targets.weights)
    pixels = torch.cat([pixels, pixels.sum(1, keepdim=True)], dim=1)
    return torch.cat([weight, weight.sum(1, keepdim=True)], dim=1) / pixels.clamp(min=1)


def _neighbours(where: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """As `ops.points.neighbours`, of (R, B, n, 2) points in B maps that lie one after another: two (4, R, B, n)."""
    index, weight = neighbours(where.flatten(0, 2), *size)
    form = (4, *where.shape[:3])
    image = torch.arange(where.shape[1], device=where.device)[:, None] * (size[0] * size[1])
    return index.view(form) + image, weight.view(form)


def _class_losses(logits: Tensor, targets: Targets, matches: Matches, means: Tensor | None) -> Tensor:
    """Cross-entropy of every round, (R,): "no object" for unmatched queries, at a tenth of the weight.

    `means`: (B, K + 1) of `segment_weights`, or None.
    """
    rounds, batch, queries, classes = logits.shape
    wanted = np.full((rounds, batch, queries), classes - 1)
    for index, round_ in enumerate(matches):
        for image, (chosen, target) in enumerate(round_):
            wanted[index, image, chosen] = targets.on_host[image][target]
    labels = send(wanted, logits.device)
    weight = logits.new_ones(classes)
    weight[-1:].fill_(NO_OBJECT_WEIGHT)  # an assignment would copy the number from the host, and wait
    losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), weight, reduction="none")
    if means is not None:
        losses = losses * means.expand(rounds, -1, -1).gather(2, labels).flatten()
    return losses.view(rounds, -1).sum(1) / weight[labels].view(rounds, -1).sum(1)


def _mask_losses(
    predictions: Predictions,
    targets: Targets,
    matches: Matches,
    draw: PointSource,
    count: int,
    means: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Sums over matched masks of cross-entropy and dice on points, each (R,). All rounds are one batch."""
    rounds = len(matches)
    features, embeddings = predictions.mask_features.float(), predictions.mask_embeddings.float()
    if (
        targets.pairs == 0
    ):  # exactly 0, but a function of the predictions still: every parameter has a gradient
        nothing = (embeddings.sum((1, 2, 3)) + features.sum()) * 0
        return nothing, nothing
    queries, classes, images = _pairs(targets, matches, embeddings.shape[2], features.device)
    shares = [len(chosen) for chosen, _ in matches[0]]  # pairs of each image, the same in every round
    chosen = embeddings.flatten(1, 2).gather(1, queries[..., None].expand(-1, -1, embeddings.shape[-1]))
    product = "rpd,rdhw->rphw" if predictions.by_round else "rpd,dhw->rphw"
    masks = torch.cat(
        [
            torch.einsum(product, part, image)
            for part, image in zip(chosen.split(shares, dim=1), features.unbind(-4), strict=True)
        ],
        dim=1,
    ).flatten(0, 1)  # (R*P, h, w)
    where, wanted, weights = _points_and_values(masks.detach(), targets, classes, images, draw, count)
    entropy, dice = _point_losses(sample_maps(masks, where), wanted, weights)
    if means is not None:
        dice = dice * means[images.expand(rounds, -1), classes].flatten()
    return entropy.view(rounds, -1).sum(1), dice.view(rounds, -1).sum(1)


def _pairs(
    targets: Targets, matches: Matches, queries_each: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Who was matched, in one copy: query within the batch (R, P), class (R, P), image (P,)."""
    queries, classes, images = [], [], []
    for round_ in matches:
        for image, (chosen, target) in enumerate(round_):
            queries.append(image * queries_each + chosen)
            classes.append(targets.on_host[image][target])
            images.append(np.full(len(chosen), image))
    packed = send(np.stack([np.concatenate(part) for part in (queries, classes, images)]), device)
    queries_of, classes_of, images_of = packed.view(3, len(matches), -1).unbind()
    return queries_of, classes_of, images_of[0]


@torch.no_grad()
def _points_and_values(
    masks: Tensor, targets: Targets, classes: Tensor, images: Tensor, draw: PointSource, count: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Where (R*P, h, w) masks are trained, what they should be there, and how certain that is.

    Some rounds at a time: candidates are many and soon forgotten.

    Returns:
        (R*P, n, 2); (R*P, n) in 0..1; (R*P, n) weights, or None where all are certain.
    """
    rounds, pairs = classes.shape
    limit = POINTS_AT_ONCE["cpu" if masks.device.type == "cpu" else "gpu"]
    step = max(1, limit // (pairs * OVERSAMPLING * count))
    where, wanted, weights = [], [], []
    for first in range(0, rounds, step):
        chunk = range(first, min(first + step, rounds))
        of_images = images.repeat(len(chunk))
        some = masks[first * pairs : (chunk[-1] + 1) * pairs]
        where.append(_training_points(some, targets, of_images, draw, chunk, count))
        asked = classes[first : chunk[-1] + 1].flatten()
        wanted.append(_wanted(targets, asked, of_images, where[-1]))
        if targets.weights is not None:
            weights.append(_weights_of(targets.weights, of_images, where[-1]))
    return torch.cat(where), torch.cat(wanted), torch.cat(weights) if weights else None


def _weights_of(weights: Tensor, images: Tensor, where: Tensor) -> Tensor:
    """Weights of the pixels that points lie in: (B, H, W), image of each set (M,), (M, n, 2) -> (M, n)."""
    height, width = weights.shape[1:]
    return weights.flatten()[images[:, None] * (height * width) + nearest_pixels(where, height, width)]


def _training_points(
    masks: Tensor, targets: Targets, images: Tensor, draw: PointSource, rounds: range, count: int
) -> Tensor:
    """Mostly points where the mask is undecided, some anywhere: (M, h, w) -> (M, n, 2) (PointRend, section 4.2)."""
    pairs, uncertain = len(masks) // len(rounds), int(UNCERTAIN_SHARE * count)
    candidates, fresh = [], []
    for index in rounds:
        candidates.append(draw("oversample", index, (pairs, OVERSAMPLING * count, 2)))
        fresh.append(draw("fresh", index, (pairs, count - uncertain, 2)))
    anywhere = torch.cat(candidates)
    weights = None if targets.weights is None else _weights_of(targets.weights, images, anywhere)
    chosen = most_uncertain(sample_maps(masks, anywhere), anywhere, uncertain, weights)
    return torch.cat([chosen, torch.cat(fresh)], dim=1)


def _wanted(targets: Targets, classes: Tensor, images: Tensor, where: Tensor) -> Tensor:
    """What the matched masks should be at the points: (M,), (M,), (M, n, 2) -> (M, n) in 0..1."""
    height, width = targets.labels.shape[1:]
    index, weight = neighbours(where.flatten(0, 1), height, width)
    count = where.shape[1]
    index += images.repeat_interleave(count, output_size=len(images) * count) * (height * width)
    asked = classes.repeat_interleave(count, output_size=len(classes) * count)
    return sample_membership(targets.labels, asked, index, weight).view(-1, count)


def _point_losses(logits: Tensor, wanted: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and dice of each mask: (M, n), (M, n), weights (M, n) -> two (M,)."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    shares = logits.sigmoid()
    if weights is not None:
        entropy, shares = entropy * weights, shares * weights
    overlap = (shares * wanted).sum(1)
    if weights is not None:
        wanted = wanted * weights
    return entropy.mean(1), 1 - (2 * overlap + 1) / (shares.sum(1) + wanted.sum(1) + 1)

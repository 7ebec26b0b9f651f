"""Training loss of Mask2Former for semantic segmentation (arXiv 2112.01527, sections 3.3 and 4.1).

Shapes: R rounds, B images, Q queries, K classes, P = matched pairs of the batch, n points, D channels.

Nothing of size (queries x map) is built: the matching cost needs the masks at its points only (a mask is a linear
map of the mask features, so the features are sampled and then multiplied), the loss needs the matched masks only.
All rounds and images of a step are assigned after one copy to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reincli.model.mask_decoder import Predictions
from reincli.ops.matching import assign, pair_cost
from reincli.ops.points import most_uncertain, neighbours, sample_maps, sample_membership, sample_rows

OVERSAMPLING, UNCERTAIN_SHARE = 3, 0.75
"""Of 3 n uniform candidates the 0.75 n most undecided are trained on; the rest are drawn anew."""
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
        classes: for each image the classes present, ascending, on the device of `labels`.
        on_host: the same as arrays.
    """

    labels: Tensor
    classes: list[Tensor]
    on_host: list[np.ndarray]

    @property
    def pairs(self) -> int:
        """P: targets of the whole batch."""
        return sum(len(present) for present in self.on_host)


def targets_of(labels: Tensor, classes: int) -> Targets:
    """Read the classes present in each image of (B, H, W) labels; values from `classes` on are no class."""
    present = torch.zeros(len(labels), 256, dtype=torch.bool, device=labels.device)
    present.scatter_(1, labels.flatten(1).long(), True)
    rows = present[:, :classes].cpu().numpy()  # the one copy that the shape of everything below hangs on
    on_host = [np.flatnonzero(row) for row in rows]
    return Targets(labels, [torch.from_numpy(found).to(labels.device) for found in on_host], on_host)


Matches = list[list[tuple[np.ndarray, np.ndarray]]]
"""[round][image] -> (queries ascending, index into the image's targets)."""


def mask2former_loss(
    predictions: Predictions,
    targets: Targets,
    draw: PointSource | None = None,
    *,
    count: int = 12_544,
    mean_pairs: Callable[[float], float] = float,
) -> tuple[dict[str, Tensor], Matches]:
    """Thirty losses: class, mask and dice of every round, equally weighted.

    Args:
        predictions: of all rounds.
        targets: of the batch.
        draw: where random points come from; None: fresh random numbers.
        count: n, points on which a mask is matched and trained: 112 x 112.
        mean_pairs: pairs of this process -> mean over all processes (the divisor of mask and dice loss).

    Returns:
        Losses by name ('loss_cls', 'loss_mask', 'loss_dice' of the last round, 'd0.loss_cls', ... of round 0 on),
        each a 0-d tensor, weights included; and who was matched with whom.
    """
    draw = draw or uniform_points(predictions.class_logits.device)
    with torch.autocast(predictions.class_logits.device.type, enabled=False):
        matches = match(predictions, targets, draw, count)
        class_losses = _class_losses(predictions.class_logits.float(), targets, matches)
        mask_losses, dice_losses = _mask_losses(predictions, targets, matches, draw, count, mean_pairs)
    losses = {}
    last = len(matches) - 1
    for index in range(len(matches)):
        prefix = "" if index == last else f"d{index}."
        losses[f"{prefix}loss_cls"] = CLASS_WEIGHT * class_losses[index]
        losses[f"{prefix}loss_mask"] = MASK_WEIGHT * mask_losses[index]
        losses[f"{prefix}loss_dice"] = DICE_WEIGHT * dice_losses[index]
    return losses, matches


@torch.no_grad()
def match(predictions: Predictions, targets: Targets, draw: PointSource, count: int) -> Matches:
    """Give each target one query, in every round and image."""
    rounds, batch, queries, _ = predictions.class_logits.shape
    height, width = predictions.mask_features.shape[2:]
    features = predictions.mask_features.float().flatten(2).transpose(1, 2)  # (B, h*w, D)
    features = features.contiguous()
    most = max((len(present) for present in targets.classes), default=0)
    costs = features.new_zeros(rounds, batch, queries, most)
    for index in range(rounds):
        where = draw("match", index, (batch, count, 2))
        for image, present in enumerate(targets.classes):
            if not len(present):
                continue
            sampled = sample_rows(features[image], *neighbours(where[image], height, width))  # (n, D)
            wanted = sample_membership(
                targets.labels[image], present[:, None], *neighbours(where[image], *targets.labels.shape[1:])
            )
            masks = predictions.mask_embeddings[index, image].float() @ sampled.T
            cost = pair_cost(predictions.class_logits[index, image].float(), masks, present, wanted)
            costs[index, image, :, : len(present)] = cost
    counts = [len(present) for present in targets.classes] * rounds
    assigned = assign(costs.flatten(0, 1), counts)
    return [assigned[index * batch : (index + 1) * batch] for index in range(rounds)]


def _class_losses(logits: Tensor, targets: Targets, matches: Matches) -> Tensor:
    """Cross-entropy of every round, (R,): "no object" for unmatched queries, at a tenth of the weight."""
    rounds, batch, queries, classes = logits.shape
    wanted = np.full((rounds, batch, queries), classes - 1)
    for index, round_ in enumerate(matches):
        for image, (chosen, target) in enumerate(round_):
            wanted[index, image, chosen] = targets.on_host[image][target]
    labels = torch.from_numpy(wanted).to(logits.device)
    weight = logits.new_ones(classes)
    weight[-1] = NO_OBJECT_WEIGHT
    losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), weight, reduction="none")
    return losses.view(rounds, -1).sum(1) / weight[labels].view(rounds, -1).sum(1)


def _mask_losses(
    predictions: Predictions,
    targets: Targets,
    matches: Matches,
    draw: PointSource,
    count: int,
    mean_pairs: Callable[[float], float],
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice of the matched masks on points, each (R,)."""
    rounds, pairs = len(matches), targets.pairs
    # an image without a target counts as one pair: so the original divides, and so its numbers come out
    divisor = max(mean_pairs(sum(max(1, len(present)) for present in targets.on_host)), 1.0)
    features = predictions.mask_features.float()
    if pairs == 0:  # exactly 0, but a function of the predictions still: every parameter has a gradient
        nothing = (predictions.mask_embeddings.float().sum((1, 2, 3)) + features.sum()) * 0
        return nothing, nothing
    # taken apart once: indexing in the loop would fill a zero gradient of the whole for every round and image
    feature_maps = features.unbind()
    embeddings = [round_.unbind() for round_ in predictions.mask_embeddings.float().unbind()]
    losses = []
    for index, round_ in enumerate(matches):
        logits, classes, images = [], [], []
        for image, (chosen, target) in enumerate(round_):
            embedding = embeddings[index][image][torch.from_numpy(chosen).to(features.device)]
            logits.append(torch.einsum("pd,dhw->phw", embedding, feature_maps[image]))
            classes.append(targets.classes[image][torch.from_numpy(target).to(features.device)])
            images += [image] * len(chosen)
        masks = torch.cat(logits)  # (P, h, w)
        where = _training_points(masks.detach(), draw, index, count)
        wanted = _wanted(targets, torch.cat(classes), images, where)
        losses.append(_point_losses(sample_maps(masks, where), wanted))
    stacked = torch.stack([torch.stack(pair) for pair in losses], dim=1) / divisor  # (2, R)
    assert stacked.shape == (2, rounds)
    return stacked[0] / count, stacked[1]


@torch.no_grad()
def _training_points(masks: Tensor, draw: PointSource, index: int, count: int) -> Tensor:
    """Mostly points where the mask is undecided, some anywhere: (P, h, w) -> (P, n, 2) (PointRend, section 4.2)."""
    uncertain = int(UNCERTAIN_SHARE * count)
    candidates = draw("oversample", index, (len(masks), OVERSAMPLING * count, 2))
    chosen = most_uncertain(sample_maps(masks, candidates), candidates, uncertain)
    return torch.cat([chosen, draw("fresh", index, (len(masks), count - uncertain, 2))], dim=1)


@torch.no_grad()
def _wanted(targets: Targets, classes: Tensor, images: list[int], where: Tensor) -> Tensor:
    """What the matched masks should be at the points: (P,), (P, n, 2) -> (P, n) in 0..1."""
    height, width = targets.labels.shape[1:]
    index, weight = neighbours(where.flatten(0, 1), height, width)
    count = where.shape[1]
    index += torch.tensor(images, device=where.device).repeat_interleave(count) * (height * width)
    return sample_membership(targets.labels, classes.repeat_interleave(count), index, weight).view(-1, count)


def _point_losses(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over pairs (and points) of cross-entropy and of dice: (P, n), (P, n) -> two 0-d."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    shares = logits.sigmoid()
    overlap = (shares * wanted).sum(1)
    dice = 1 - (2 * overlap + 1) / (shares.sum(1) + wanted.sum(1) + 1)
    return entropy, dice.sum()

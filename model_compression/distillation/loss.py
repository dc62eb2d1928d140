"""What soft labels teach: each object is assigned to the cells that see it best, by its score.

Task-aligned assignment (Feng et al., TOOD, ICCV 2021), quality focal loss and distribution focal
loss (Li et al., Generalized Focal Loss, NeurIPS 2020), GIoU (Rezatofighi et al., CVPR 2019).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from model_compression.contract import REG_MAX, STRIDES
from model_compression.distillation.views import Known

CELLS = 9
"""That an object is assigned to at most."""
SCORE_POWER, OVERLAP_POWER = 0.5, 4.0
LEAST_HALF_PX = 6.0
"""A cell whose centre is so near to an object's is a candidate for it, however small it is."""
LEAST_LONG_SIDE = 0.6
"""Of an object in strides of a level that is a candidate for it."""
BOX_WEIGHT, BINS_WEIGHT = 2.0, 0.25


class Grid:
    """The cells of an input's three levels.

    Attributes:
        centres_px: float32 [cells, 2].
        strides_px: float32 [cells].
    """

    def __init__(self, size_px: tuple[int, int]) -> None:
        """Take the input's width and height."""
        centres, strides = [], []
        for stride in STRIDES:
            columns, rows = (torch.arange(side // stride) for side in size_px)
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centres.append((torch.stack([x, y], 2).reshape(-1, 2) + 0.5) * stride)
            strides.append(torch.full((x.numel(),), float(stride)))
        self.centres_px, self.strides_px = torch.cat(centres), torch.cat(strides)

    def boxes_px(self, bins: Tensor, cells: Tensor | None = None) -> Tensor:
        """Decode logits [..., cells, 4, bins] to left, top, right, bottom [..., cells, 4].

        The cells are all, or those of the indices.
        """
        chosen = slice(None) if cells is None else cells
        centres_px, strides_px = self.centres_px[chosen], self.strides_px[chosen]
        sides = bins.softmax(-1) @ torch.arange(REG_MAX, dtype=torch.float32) * strides_px[:, None]
        return torch.cat([centres_px - sides[..., :2], centres_px + sides[..., 2:]], -1)


def flatten(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return bins [n, cells, 4, bins] and class logits [n, cells, classes] of a head's maps."""
    bins, logits = (
        torch.cat([one.flatten(2) for one in maps], 2).transpose(1, 2).float()
        for maps in (outputs[: len(STRIDES)], outputs[len(STRIDES) :])
    )
    return bins.unflatten(2, (4, REG_MAX)), logits


def overlap(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of boxes [..., 4] that broadcast."""
    ours, theirs = torch.broadcast_tensors(ours, theirs)

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    low, high = ours[..., :2], ours[..., 2:]
    their_low, their_high = theirs[..., :2], theirs[..., 2:]
    common = area(torch.maximum(low, their_low), torch.minimum(high, their_high))
    union = area(low, high) + area(their_low, their_high) - common + 1e-6
    hull = area(torch.minimum(low, their_low), torch.maximum(high, their_high)) + 1e-6
    iou = common / union
    return iou, iou - (hull - union) / hull


@torch.no_grad()
def assign(
    grid: Grid, scores: Tensor, boxes_px: Tensor, known: Known
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the cells of each object of an image.

    Args:
        grid: of the input.
        scores: [cells, classes], 0 to 1.
        boxes_px: [cells, 4].
        known: of the image, in the input's pixels.

    Returns:
        What the scores are to be, [cells, classes]; the cells with an object, int64 [k], and which
        object each has, int64 [k].
    """
    target = torch.zeros_like(scores)
    none = torch.zeros(0, dtype=torch.int64)
    if not len(known.boxes):
        return target, none, none
    boxes, classes = torch.from_numpy(known.boxes), torch.from_numpy(known.classes)
    sure = torch.from_numpy(known.scores)
    sides = boxes[:, 2:] - boxes[:, :2]
    away = (grid.centres_px[None] - (boxes[:, :2] + sides / 2)[:, None]).abs()
    inside = (away < (sides / 2).clamp(min=LEAST_HALF_PX)[:, None]).all(-1)
    finest = grid.strides_px == STRIDES[0]
    inside &= finest | (sides.amax(1)[:, None] > LEAST_LONG_SIDE * grid.strides_px)
    iou = overlap(boxes_px[None], boxes[:, None])[0]
    fit = scores[:, classes].T.pow(SCORE_POWER) * iou.pow(OVERLAP_POWER) + 1e-9
    # Before anything is learned the nearest cells are as good as any.
    fit = (fit + 1e-6 / (1 + away.sum(-1) / grid.strides_px)) * inside
    best, cells = fit.topk(min(CELLS, len(grid.strides_px)), dim=1)
    chosen = torch.zeros_like(inside).scatter_(1, cells, best > 0)
    # A cell that several objects want has the one that it overlaps most.
    wanted = torch.where(chosen, iou * sure[:, None] + 1e-6, torch.zeros(()))
    positive = chosen.any(0).nonzero()[:, 0]
    owner = wanted.argmax(0)[positive]
    fit = torch.where(chosen, fit, torch.zeros(()))
    quality = fit / fit.amax(1, keepdim=True).clamp(min=1e-12)
    quality = quality * torch.where(chosen, iou, torch.zeros(())).amax(1, keepdim=True).clamp(0.3)
    target[positive, classes[owner]] = quality[owner, positive] * sure[owner]
    return target, positive, owner


def unknown(grid: Grid, known: Known) -> Tensor:
    """Where nothing is known of which class, bool [cells, classes]."""
    boxes = torch.from_numpy(known.ignored_boxes)[:, None]
    classes = torch.from_numpy(known.ignored_classes)
    # A cell reports what lies around it, too, so that the box is widened by half of one.
    half = grid.strides_px[:, None] / 2
    low, high = grid.centres_px - half, grid.centres_px + half
    inside = ((high > boxes[..., :2]) & (low < boxes[..., 2:])).all(-1)
    return (inside.float().T @ classes.float()) > 0


def label_loss(
    grid: Grid, outputs: Sequence[Tensor], known: Sequence[Known]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare a head's maps with what is known of each image.

    Returns:
        Losses of classes, boxes and bins, each for one object of full score.
    """
    bins, logits = flatten(outputs)
    boxes_px, scores = grid.boxes_px(bins.detach()), logits.sigmoid()
    target = torch.zeros_like(scores)
    weight = torch.ones_like(scores)
    rows: list[Tensor] = []
    wanted: list[Tensor] = []
    for index, one in enumerate(known):
        target[index], cells, owner = assign(grid, scores[index], boxes_px[index], one)
        weight[index] = (~unknown(grid, one) | (target[index] > 0)).float()
        rows.append(torch.stack([torch.full_like(cells, index), cells]))
        wanted.append(torch.from_numpy(one.boxes)[owner])
    total = target.sum().clamp(min=1)
    crossed = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    classes = (crossed * (scores - target).square() * weight).sum() / total
    image, cell = torch.cat(rows, 1)
    share = target[image, cell].amax(1)
    boxes, spread = box_losses(grid, bins[image, cell], cell, torch.cat(wanted))
    return classes, (boxes * share).sum() / total, (spread * share).sum() / total


def box_losses(grid: Grid, bins: Tensor, cells: Tensor, boxes_px: Tensor) -> tuple[Tensor, Tensor]:
    """Compare boxes with those of objects.

    Args:
        grid: of the input.
        bins: logits [k, 4, bins].
        cells: of the boxes, int64 [k].
        boxes_px: of the objects, [k, 4].

    Returns:
        Losses of the boxes and of their bins, [k].
    """
    giou = overlap(grid.boxes_px(bins, cells), boxes_px)[1]
    centres = grid.centres_px[cells]
    sides = torch.cat([centres - boxes_px[:, :2], boxes_px[:, 2:] - centres], 1)
    place = (sides / grid.strides_px[cells, None]).clamp(0, REG_MAX - 1.01)
    low, upper = place.long(), place.frac()
    logged = bins.log_softmax(-1)
    lower, higher = (logged.gather(2, (low + i)[..., None])[..., 0] for i in (0, 1))
    return 1 - giou, -(lower * (1 - upper) + higher * upper).mean(1)

"""How a training begins: the last layers learn alone, what they read stays the original's.

What the towers make of many views is computed once and kept in half precision, so that a step
takes a tenth of a second on one core.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from model_compression.distillation.config import Readers
from model_compression.distillation.intel import IntelNetwork, Original
from model_compression.distillation.loss import BINS_WEIGHT, BOX_WEIGHT, Grid, label_loss
from model_compression.distillation.views import Known, View
from model_compression.distillation.weather import pictures
from model_compression.train import Report

BATCH = 8
"""Views whose maps are computed at once."""
NORMALISED_VIEWS = 256
"""That the towers' normalisation is measured on."""
LEAST_RATE = 1e-5
DECAY = 0.8
"""Last share of the steps, in which the learning rate falls to its least."""
WARM_UP_STEPS = 50
REPORT_EVERY_STEPS = 100


@torch.no_grad()
def compute_ends(
    network: IntelNetwork,
    original: Original,
    draw: Callable[[], View],
    views: int,
    rng: np.random.Generator,
    report: Report,
    until: Callable[[], bool],
) -> tuple[list[Tensor], list[Known]]:
    """Give a network the original's weights and compute what its readers read.

    Returns:
        The ends of its towers, float16 [views, c, h, w] by output, and what is known of each view;
        nothing if ``until`` said so.
    """
    original.fill(network)
    head, known = network.model[-1], list[Known]()
    batches: list[list[Tensor]] = []
    for number in range(math.ceil(views / BATCH)):
        if until():
            return [], []
        drawn = [draw() for _ in range(BATCH)]
        batches.append([level.half() for level in network.maps(pictures(drawn, rng))])
        known += [view.known for view in drawn]
        if (number + 1) % REPORT_EVERY_STEPS == 0:
            report({"step": 0, "views": len(known)})
    measured = batches[: math.ceil(NORMALISED_VIEWS / BATCH)]
    original.normalise(head, [torch.cat(level).float() for level in zip(*measured, strict=True)])
    ends: list[Tensor] = []
    for number, batch in enumerate(batches):
        made = head.towers([level.float() for level in batch])
        ends = ends or [
            one.new_empty((len(known), *one.shape[1:]), dtype=torch.half) for one in made
        ]
        for end, one in zip(ends, made, strict=True):
            end[number * BATCH : (number + 1) * BATCH] = one
        batch.clear()
    return ends, known


def train_readers(
    network: IntelNetwork,
    ends: Sequence[Tensor],
    known: Sequence[Known],
    size_px: tuple[int, int],
    settings: Readers,
    rng: np.random.Generator,
    report: Report,
    until: Callable[[], bool],
) -> bool:
    """Train a network's readers on what ``compute_ends`` found; tell whether it was done."""
    if not known:
        return False
    head, grid = network.model[-1], Grid(size_px)
    parameters = [one for part in network.fresh for one in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=1e-4)
    found: list[list[float]] = []
    for step in range(settings.steps):
        if until():
            return False
        risen, left = (step + 1) / WARM_UP_STEPS, (settings.steps - step) / settings.steps
        level = max(LEAST_RATE, settings.learning_rate * min(1.0, risen, left / DECAY))
        optimizer.param_groups[0]["lr"] = level
        chosen = rng.choice(len(known), min(settings.batch, len(known)), replace=False)
        outputs = head.read(end[chosen].float() for end in ends)
        classes, boxes, bins = label_loss(grid, outputs, [known[i] for i in chosen])
        optimizer.zero_grad()
        (classes + BOX_WEIGHT * boxes + BINS_WEIGHT * bins).backward()
        optimizer.step()
        found.append([classes.item(), boxes.item(), bins.item()])
        if (step + 1) % REPORT_EVERY_STEPS == 0:
            means = np.mean(found, 0).round(4).tolist()
            named = dict(zip(("classes", "boxes", "bins"), means, strict=True))
            report({"step": 0, "of the readers": step + 1, **named})
            found = []
    return True

"""Makes a network of few channels of a trained one, which a training heals."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model_compression.distillation.config import Recipe
from model_compression.distillation.femto import fit
from model_compression.distillation.folders import load_average
from model_compression.distillation.hgnet import HGNetwork, ShortStem
from model_compression.distillation.training import save_checkpoint
from model_compression.distillation.views import draw_view
from model_compression.distillation.weather import pictures
from model_compression.errors import CompressionError
from model_compression.model import count_gmac
from model_compression.prune import prune
from perception_nodes.cli.common import progress_bar

VIEWS = 32
"""That the short stem is fitted to, and that tell how much a channel's absence changes."""


def write_pruned(
    recipe: Recipe, checkpoint: Path, file: Path, size_px: tuple[int, int], gmac: float
) -> None:
    """Write a checkpoint of a network with a short stem and fewer channels.

    Args:
        recipe: of the pruned network.
        checkpoint: of the network with the original's stem, whose averaged weights are taken.
        file: to write.
        size_px: width and height of the input.
        gmac: 10^9 multiply-accumulates that may be left.

    Raises:
        CompressionError: the recipe is of another network, or has nothing to learn from; the
            checkpoint is none; there are fewer multiply-accumulates before, or more in the end.
    """
    if recipe.network != "hgnet-short":
        raise CompressionError(f"network: {recipe.network} in the recipe; take hgnet-short")
    network, _ = load_average(recipe.model_copy(update={"network": "hgnet"}), checkpoint)
    frames, rng = recipe.frames(), np.random.default_rng(recipe.seed)
    views = [draw_view(frames, size_px, recipe.stages[0].scales, rng) for _ in range(VIEWS)]
    images = pictures(views, rng)
    shorten(network, images)
    if (whole := count_gmac(network, size_px)) <= gmac:
        raise CompressionError(f"{whole:.3f} GMAC are there before, and {gmac} were asked for")
    before = math.inf
    while gmac < (now := count_gmac(network, size_px)) < before:
        with progress_bar(f"groups of channels at {now:.3f} GMAC") as progress:
            network, _ = prune(network, images, gmac, size_px, progress)
        before = now
    if now > gmac:
        raise CompressionError(f"{now:.3f} GMAC are the least; {gmac} were asked for")
    print(f"{count_gmac(network, size_px):.3f} GMAC")
    save_checkpoint(network.state_dict(), 0, file)


@torch.no_grad()
def shorten(network: HGNetwork, images: Tensor) -> None:
    """Give a network a short stem, fitted to what its stem makes of pictures."""
    stem, short = network.model[0], ShortStem()
    short.conv.load_state_dict(stem.conv.state_dict())
    wanted = stem.narrow.conv(stem.down(stem.joined(images)))
    fit(short.down.conv, short.act(short.conv(images)), wanted)
    network.model[0] = short

"""Train the road detector for a given time, starting from YOLOv8n's COCO weights.

The labels teach it; the COCO detector itself, with its own activation, teaches it too.
"""

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from compression.augment import augment
from compression.model import DetectionLoss, build_model, distillation_loss

FINAL_PHASE = 0.7


class Samples:
    """The stored training set: images uint8 [h, w, 3] BGR and labels float32 [n, 5]."""

    def __init__(self, folder: Path) -> None:
        self.images = sorted((folder / "images").glob("*.jpg"))
        self.labels = [
            np.loadtxt(path, dtype=np.float32, ndmin=2).reshape(-1, 5)
            if (path := folder / "labels" / f"{image.stem}.txt").stat().st_size
            else np.zeros((0, 5), np.float32)
            for image in self.images
        ]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return cv2.imread(str(self.images[index])), self.labels[index]


def make_batch(
    samples: Samples, indices: np.ndarray, mosaic_share: float, rng: np.random.Generator
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Load and augment: images float32 [n, 3, 256, 416] RGB 0 to 1, and each one's labels."""
    images, labels = [], []
    for index in indices:
        chosen = [index]
        if rng.random() < mosaic_share:
            chosen += list(rng.integers(len(samples), size=3))
        image, image_labels = augment([samples[i] for i in chosen], rng)
        images.append(image[:, :, ::-1].transpose(2, 0, 1))
        labels.append(torch.from_numpy(image_labels))
    return torch.from_numpy(np.stack(images)).float() / 255, labels


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """Make AdamW that decays weights, but neither biases nor normalisation."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0}],
        lr=0.0,
    )


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move the averaged weights towards the model's, faster in the first steps."""
    keep = 0.998 * (1 - math.exp(-(step + 1) / 100))
    current = model.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - keep)


@contextmanager
def rounded_weights(model: nn.Module, bits: int) -> Iterator[None]:
    """Round the weights within the block as compression.quantize will.

    Gradients are those of the rounded weights and are applied to the exact ones afterwards. The
    scale is one an output channel, so folding BatchNorm later changes nothing. Convolutions with
    a bias are the head's last ones, which stay float.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is None]
    exact = [m.weight.data for m in convolutions]
    largest = 2 ** (bits - 1) - 1
    for module, weight in zip(convolutions, exact, strict=True):
        scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9) / largest
        module.weight.data = (weight / scale).round() * scale
    try:
        yield
    finally:
        for module, weight in zip(convolutions, exact, strict=True):
            module.weight.data = weight


def main() -> None:
    """Train, and save the averaged weights after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what compression.dataset wrote")
    parser.add_argument("--weights", type=Path, required=True, help="YOLOv8n COCO checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--minutes", type=float, default=60, help="the schedule fits into these")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--distillation", type=float, default=1.0, help="weight of its loss")
    parser.add_argument("--warm-up-steps", type=int, default=100)
    parser.add_argument("--weight-bits", type=int, default=7, help="as compression.quantize's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    samples = Samples(args.data)
    model = build_model(args.weights).train().to(memory_format=torch.channels_last)
    teacher = build_model(args.weights, activation="silu").eval()
    teacher = teacher.to(memory_format=torch.channels_last)
    average = deepcopy(model).eval()
    loss_of = DetectionLoss(model)
    optimizer = make_optimizer(model, args.weight_decay)

    start_s = time.monotonic()
    step, epoch, progress = 0, 0, 0.0
    while progress < 1:
        order = rng.permutation(len(samples))
        sums, steps_before = np.zeros(4), step
        for first in range(0, len(order) - args.batch + 1, args.batch):
            progress = (time.monotonic() - start_s) / (60 * args.minutes)
            if progress >= 1:
                break
            # The rate follows the clock, so the schedule ends whole however fast the machine is.
            rate = 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2
            rate *= min(1, (step + 1) / args.warm_up_steps)
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * rate
            # In the end what the model will meet: whole images, and its weights rounded.
            final = progress > FINAL_PHASE
            mosaic_share = 0.0 if final else 0.5
            indices = order[first : first + args.batch]
            images, labels = make_batch(samples, indices, mosaic_share, rng)
            images = images.to(memory_format=torch.channels_last)
            with torch.no_grad():
                taught = teacher(images)
            optimizer.zero_grad()
            with rounded_weights(model, args.weight_bits) if final else nullcontext():
                outputs = model(images)
                loss, parts = loss_of(outputs, labels)
                distilled = distillation_loss(outputs, taught)
                (loss + args.distillation * distilled).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            update_average(average, model, step)
            sums += [*parts.tolist(), distilled.item() / len(images)]
            step += 1
            if step % 20 == 0:
                box, cls, dfl, kept = sums / (step - steps_before)
                print(
                    f"{time.monotonic() - start_s:6.0f} s, epoch {epoch}, step {step}: "
                    f"box {box:.3f} class {cls:.3f} dfl {dfl:.3f} distilled {kept:.3f}",
                    flush=True,
                )
        epoch += 1
        partial = args.out.with_suffix(".partial")
        torch.save({k: v.contiguous() for k, v in average.state_dict().items()}, partial)
        partial.rename(args.out)
    print(f"{epoch} epochs (the last one cut short), {step} steps, {args.out}")


if __name__ == "__main__":
    main()

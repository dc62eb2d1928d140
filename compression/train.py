"""Train a road detector: labels teach it, and a teacher's outputs and features do, too.

A run that was killed goes on where it last saved its state. Everything drawn at random depends on
the seed and the step alone, so it then sees the same images as if it had never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from compression.augment import augment
from compression.config import Training
from compression.model import DetectionLoss, FeatureLoss, distillation_loss

SAVE_EVERY_S = 60
REPORT_EVERY_STEPS = 20

Batch = tuple[torch.Tensor, list[torch.Tensor]]
Report = Callable[[dict[str, Any]], None]
"""Takes the facts of the last steps: epoch, step, steps, images_per_s, losses."""


class Samples:
    """The stored training set: images uint8 [h, w, 3] BGR and labels float32 [n, 5].

    Images of a set that is to be shown more often are there so many times.
    """

    def __init__(self, folder: Path, times: Mapping[str, int] | None = None) -> None:
        """Take the set's folder, and how often the images of each of its sources are shown."""
        sources = sorted(times or {}, key=len, reverse=True)  # a name may begin another one

        def shown(image: Path) -> int:
            found = (s for s in sources if image.name.startswith(f"{s}_"))
            return (times or {}).get(next(found, ""), 1)

        stored = sorted((folder / "images").glob("*.jpg"))
        self.images = [image for image in stored for _ in range(shown(image))]
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


def to_tensor(images: list[np.ndarray]) -> torch.Tensor:
    """Make float32 [n, 3, h, w] RGB 0 to 1 of uint8 [h, w, 3] BGR images."""
    stacked = torch.from_numpy(np.stack(images)[..., ::-1].copy())
    return (stacked.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)


class Batches:
    """The batch of each step, drawn and augmented as seed and step say."""

    def __init__(
        self, samples: Samples, training: Training, size_px: tuple[int, int], seed: int
    ) -> None:
        self._samples, self._training, self._size_px, self._seed = samples, training, size_px, seed
        self.batch = min(training.batch, len(samples))
        self.an_epoch = len(samples) // self.batch
        self.steps = max(1, round(training.epochs * self.an_epoch))

    def is_final(self, step: int) -> bool:
        """Whether a step shows what the network will meet: whole images."""
        return step >= self.steps * (1 - self._training.final_phase)

    def make(self, step: int) -> Batch:
        """Load and augment: images as of ``to_tensor``, and each one's labels [k, 5]."""
        epoch, place = divmod(step, self.an_epoch)
        order = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._samples))
        rng = np.random.default_rng([self._seed, 1, step])
        share = 0.0 if self.is_final(step) else self._training.mosaic
        images, labels = [], []
        for index in order[place * self.batch : (place + 1) * self.batch]:
            chosen = [index]
            if rng.random() < share:
                chosen += list(rng.integers(len(self._samples), size=3))
            image, image_labels = augment([self._samples[i] for i in chosen], self._size_px, rng)
            images.append(image)
            labels.append(torch.from_numpy(image_labels.astype(np.float32)))
        return to_tensor(images), labels

    @classmethod
    def whole(
        cls, samples: Samples, count: int, size_px: tuple[int, int], seed: int
    ) -> torch.Tensor:
        """Return so many images in one batch, none made of several."""
        training = Training(epochs=1, batch=count, mosaic=0)
        return cls(samples, training, size_px, seed).make(0)[0]

    def following(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Yield every step from the first on with its batch, the next one being made meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.make, first)
            for step in range(first, self.steps):
                batch = coming.result()
                if step + 1 < self.steps:
                    coming = pool.submit(self.make, step + 1)
                yield step, batch


def make_optimizer(modules: list[nn.Module], weight_decay: float) -> torch.optim.Optimizer:
    """Make AdamW that decays weights, but neither biases nor normalisation."""
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0},
        ],
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
    """Round the weights within the block as quantization will.

    Gradients are those of the rounded weights and are applied to the exact ones afterwards. The
    scale is one an output channel, so folding BatchNorm later changes nothing. Convolutions with
    a bias are the head's last ones, which stay finer.
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


@contextmanager
def head_inputs(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the maps that enter the head; the list is that of the last forward pass."""
    maps: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: tuple[list[torch.Tensor]]) -> None:
        maps[:] = inputs[0]

    hook = model.model[-1].register_forward_pre_hook(keep)
    try:
        yield maps
    finally:
        hook.remove()


def head_channels(model: nn.Module) -> list[int]:
    """Return the channels of the maps that enter the head."""
    return [branch[0].conv.in_channels for branch in model.model[-1].box]


def half_precision() -> Any:
    """Return the context of a forward pass: bfloat16 where the CPU multiplies it."""
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)


def train(
    model: nn.Module,
    teacher: nn.Module,
    samples: Samples,
    training: Training,
    *,
    size_px: tuple[int, int],
    seed: int,
    state: Path,
    report: Report,
    weight_bits: int | None = None,
) -> nn.Module:
    """Train a network in place and return its average over the last steps, for inference.

    Args:
        model: student, as of compression.model.
        teacher: network of the same input and outputs; teaches by outputs and head features.
        samples: what to train on.
        training: how.
        size_px: width and height of the input.
        seed: of everything random.
        state: file that a killed run goes on from; removed at the end.
        report: called every few steps.
        weight_bits: round weights to so many bits in the final phase.

    Raises:
        FloatingPointError: the loss is no longer a number.
    """
    torch.manual_seed(seed)
    batches = Batches(samples, training, size_px, seed)
    model = model.train().to(memory_format=torch.channels_last)
    teacher = teacher.eval().to(memory_format=torch.channels_last)
    average = deepcopy(model).eval()
    loss_of = DetectionLoss(model)
    feature_loss = FeatureLoss(head_channels(model), head_channels(teacher))
    optimizer = make_optimizer([model, feature_loss], training.weight_decay)
    kept = {"model": model, "average": average, "features": feature_loss, "optimizer": optimizer}
    first = 0
    if state.exists():
        saved = torch.load(state, map_location="cpu", weights_only=True)
        first = saved.pop("step")
        for name, value in saved.items():
            kept[name].load_state_dict(value)

    saved_s = reported_s = time.monotonic()
    sums, count = np.zeros(5), 0
    with head_inputs(model) as ours, head_inputs(teacher) as theirs:
        for step, (images, labels) in batches.following(first):
            rate = 0.02 + 0.98 * (1 + math.cos(math.pi * step / batches.steps)) / 2
            rate *= min(1, (step + 1) / max(1, training.warm_up_steps))
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * rate
            with torch.no_grad(), half_precision():
                taught = teacher(images)
            optimizer.zero_grad()
            rounded = weight_bits is not None and batches.is_final(step)
            with rounded_weights(model, weight_bits) if rounded else nullcontext():
                with half_precision():
                    outputs = model(images)
                outputs = [x.float() for x in outputs]
                loss, parts = loss_of(outputs, labels)
                distilled = distillation_loss(outputs, [x.float() for x in taught])
                loss = loss + training.distillation * distilled
                alike = torch.zeros(())
                if training.features:
                    alike = feature_loss(ours, theirs)
                    loss = loss + training.features * alike
                loss.backward()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"the loss became {loss.item()} at step {step}; lower the learning rate"
                )
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            update_average(average, model, step)
            count += 1
            sums += [*parts.tolist(), distilled.item() / len(images), alike.item() / len(images)]
            done = step + 1
            if done % REPORT_EVERY_STEPS == 0 or done == batches.steps:
                now_s = time.monotonic()
                report(
                    {
                        "step": done,
                        "steps": batches.steps,
                        "epoch": round(done / batches.an_epoch, 2),
                        "images_per_s": round(count * batches.batch / (now_s - reported_s), 2),
                        **dict(
                            zip(
                                ("box", "class", "dfl", "distilled", "features"),
                                (sums / count).round(4).tolist(),
                                strict=True,
                            )
                        ),
                    }
                )
                sums[:], count, reported_s = 0, 0, now_s
            if time.monotonic() - saved_s > SAVE_EVERY_S:
                states = {name: value.state_dict() for name, value in kept.items()}
                partial = state.with_suffix(".partial")
                torch.save({"step": done, **states}, partial)
                partial.rename(state)
                saved_s = time.monotonic()
    state.unlink(missing_ok=True)
    return average

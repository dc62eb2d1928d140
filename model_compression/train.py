"""Train a road detector: labels teach it, and a teacher's outputs and features do, too.

A run that was killed goes on where it last saved its state. Everything drawn at random depends on
the seed and the step alone, so it then sees the same images as if it had never stopped.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model_compression.augment import augment
from model_compression.config import Training
from model_compression.errors import CompressionError
from model_compression.frames import read_image
from model_compression.model import DetectionLoss, FeatureLoss, distillation_loss

SAVE_EVERY_S = 60
REPORT_EVERY_STEPS = 20
WEIGHT_DECAY = 5e-4
CPU = torch.device("cpu")
CORES_A_WORKER = 4
"""Threads that make batches are few, so that a CPU that trains trains."""

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
        return read_image(self.images[index]), self.labels[index]


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

    def following(self, first: int, workers: int = 1) -> Iterator[tuple[int, Batch]]:
        """Yield every step from the first on with its batch, the next ones being made meanwhile."""
        with ThreadPoolExecutor(workers) as pool:
            ahead = range(first, min(first + workers, self.steps))
            coming = deque(pool.submit(self.make, step) for step in ahead)
            for step in range(first, self.steps):
                batch = coming.popleft().result()
                if step + workers < self.steps:
                    coming.append(pool.submit(self.make, step + workers))
                yield step, batch


def make_optimizer(modules: list[nn.Module]) -> torch.optim.Optimizer:
    """Make AdamW that decays weights, but neither biases nor normalisation."""
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
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


class Maps:
    """The maps of a network's last forward pass: those that enter the head, and of some parts."""

    def __init__(self, model: nn.Module, parts: Sequence[nn.Module] = ()) -> None:
        """Listen to a network, and to parts of it, from now on."""
        self.head: list[torch.Tensor] = []
        self._made: dict[nn.Module, torch.Tensor] = {}
        self._hooks = [model.model[-1].register_forward_pre_hook(self._keep_head)]
        self._parts = parts
        self._hooks += [part.register_forward_hook(self._keep) for part in parts]

    @property
    def all(self) -> list[torch.Tensor]:
        """The maps that the parts made, and the three that enter the head."""
        return [self._made[part] for part in self._parts] + self.head

    def _keep_head(self, _: nn.Module, inputs: tuple[list[torch.Tensor]]) -> None:
        self.head = list(inputs[0])

    def _keep(self, part: nn.Module, _: Any, output: torch.Tensor) -> None:
        self._made[part] = output

    def close(self) -> None:
        """Listen no longer."""
        for hook in self._hooks:
            hook.remove()


@torch.no_grad()
def map_channels(model: nn.Module) -> list[int]:
    """Return the channels of the maps that enter a network's head."""
    maps, training = Maps(model), model.training
    model.eval()(torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device))
    model.train(training)
    maps.close()
    return [seen.shape[1] for seen in maps.head]


def half_precision(device: torch.device = CPU) -> Any:
    """Return the context of a forward pass: bfloat16 where the device multiplies it."""
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast or device != CPU)


def fastest_device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda") if torch.cuda.is_available() else CPU


@dataclass(frozen=True)
class Losses:
    """How far a step is from labels and teacher, each an average over the images.

    Attributes:
        total: what to minimise, summed over the images.
        parts: box, class and DFL of the labels, outputs and features of the teacher; what has no
            weight is 0.
    """

    total: torch.Tensor
    parts: NDArray[np.float64]


PARTS = ("box", "class", "dfl", "distilled", "features")


class Lesson:
    """What a network learns in a step."""

    def __init__(self, model: nn.Module, teacher: nn.Module, training: Training) -> None:
        """Listen to both networks."""
        self._model, self._teacher, self._training = model, teacher, training
        self._device = next(model.parameters()).device
        self._ours, self._theirs = Maps(model), Maps(teacher)
        self._labels = DetectionLoss(model)
        channels, theirs = map_channels(model), map_channels(teacher)
        self.features = FeatureLoss(channels, theirs).to(self._device)

    def losses(self, images: torch.Tensor, labels: list[torch.Tensor]) -> Losses:
        """Pass images and labels, as of ``Batches.make``, through both."""
        device = self._device
        images = images.to(device, non_blocking=True)
        training = self._training
        with torch.no_grad(), half_precision(device):
            taught = self._teacher(images)
        with half_precision(device):
            outputs = self._model(images)
        outputs = [x.float() for x in outputs]
        distilled = distillation_loss(outputs, [x.float() for x in taught])
        labelled, parts = self._labels(outputs, labels)
        total = training.distillation * distilled + labelled
        alike = torch.zeros(())
        if training.features:
            alike = self.features(self._ours.head, self._theirs.head)
            total = total + training.features * alike
        found = [distilled.item() / len(images), alike.item() / len(images)]
        return Losses(total, np.array([*parts.tolist(), *found]))

    def close(self) -> None:
        """Listen no longer."""
        self._ours.close()
        self._theirs.close()


def save_state(state: Path, numbers: Mapping[str, int], kept: Mapping[str, Any]) -> None:
    """Write what a killed run goes on from; a kill leaves the old file or the new one."""
    partial = state.with_suffix(".partial")
    torch.save({**numbers, **{k: v.state_dict() for k, v in kept.items()}}, partial)
    partial.rename(state)


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
        model: student, as of model_compression.model.
        teacher: network of the same input and outputs; teaches by outputs and features.
        samples: what to train on.
        training: how.
        size_px: width and height of the input.
        seed: of everything random.
        state: file that a killed run goes on from; whoever keeps the network removes it.
        report: called every few steps.
        weight_bits: round weights to so many bits in the final phase.

    Raises:
        CompressionError: the loss is no longer a number, or an image cannot be read.
    """
    torch.manual_seed(seed)
    batches = Batches(samples, training, size_px, seed)
    device = fastest_device()
    model = model.train().to(device, memory_format=torch.channels_last)
    teacher = teacher.eval().to(device, memory_format=torch.channels_last)
    average = deepcopy(model).eval()
    lesson = Lesson(model, teacher, training)
    optimizer = make_optimizer([model, lesson.features])
    kept = {"model": model, "average": average, "features": lesson.features, "optimizer": optimizer}
    first = 0
    if state.exists():
        saved = torch.load(state, map_location="cpu", weights_only=True)
        first = saved.pop("step")
        for name, value in saved.items():
            kept[name].load_state_dict(value)

    saved_s = reported_s = time.monotonic()
    sums, count = np.zeros(len(PARTS)), 0
    workers = max(1, len(os.sched_getaffinity(0)) // CORES_A_WORKER)
    for step, (images, labels) in batches.following(first, workers):
        rate = 0.02 + 0.98 * (1 + math.cos(math.pi * step / batches.steps)) / 2
        rate *= min(1, (step + 1) / max(1, training.warm_up_steps))
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * rate
        optimizer.zero_grad()
        rounded = weight_bits is not None and batches.is_final(step)
        with rounded_weights(model, weight_bits) if rounded else nullcontext():
            losses = lesson.losses(images, labels)
            losses.total.backward()
        if not math.isfinite(losses.total.item()):
            raise CompressionError(
                f"the loss became {losses.total.item()} at step {step}; lower learning_rate"
            )
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        update_average(average, model, step)
        count += 1
        sums += losses.parts
        done = step + 1
        if done % REPORT_EVERY_STEPS == 0 or done == batches.steps:
            now_s = time.monotonic()
            means = (sums / count).round(4).tolist()
            facts = {
                "step": done,
                "steps": batches.steps,
                "epoch": round(done / batches.an_epoch, 2),
                "images_per_s": round(count * batches.batch / (now_s - reported_s), 2),
                **dict(zip(PARTS, means, strict=True)),
            }
            report(facts)
            sums[:], count, reported_s = 0, 0, now_s
        if time.monotonic() - saved_s > SAVE_EVERY_S:
            save_state(state, {"step": done}, kept)
            saved_s = time.monotonic()
    lesson.close()
    return average.to(CPU)

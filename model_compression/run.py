"""One run of a compression: its configuration, its folder, and what it is made from."""

import json
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from model_compression.checkpoint import license_in
from model_compression.config import Config
from model_compression.model import build_model, count_gmac
from model_compression.origin import Origin, origin_of
from model_compression.train import Samples
from perception_nodes.evaluation.datasets import read_set
from perception_nodes.evaluation.labels import LabelledSet

DESCRIPTIONS = Path(__file__).parent / "datasets"


@dataclass
class Run:
    """One run's configuration and folder.

    Attributes:
        config: what to do.
        folder: where everything goes.
    """

    config: Config
    folder: Path

    def log(self, stage: str, **facts: Any) -> None:
        """Append a line to `log.jsonl`."""
        line = {"time_s": round(time.time(), 1), "stage": stage, **facts}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def checkpoint(self, step: str) -> Path:
        """The network that a step left."""
        return self.folder / step / "network.pt"

    @cached_property
    def origin(self) -> Origin:
        """What its networks are made from."""
        return origin_of(self.config, license_in)

    def labelled(self) -> list[LabelledSet]:
        """The sets that the gate measures on."""
        data, sets = self.config.data, []
        for name in self.config.gate.data:
            described = DESCRIPTIONS / f"{name}.yaml"
            known = described.is_file()
            one = read_set(described if known else data / name, data)
            sets.append(one if known else replace(one, name=name))
        return sets

    def teacher(self) -> nn.Module:
        """The network that the run starts from."""
        return build_model(self.config.data / self.config.teacher, self.config.classes)

    def samples(self) -> Samples:
        """The training set."""
        times = {source.name: source.times for source in self.config.sources}
        return Samples(self.folder / "dataset", times)

    @property
    def images(self) -> list[Path]:
        """The images of the training set, each once."""
        return sorted(set(self.samples().images))


def facts_of(run: Run, network: nn.Module) -> dict[str, Any]:
    """Say how large a network is."""
    parameters = sum(p.numel() for p in network.parameters())
    return {"gmac": round(count_gmac(network, run.config.size), 4), "parameters": parameters}

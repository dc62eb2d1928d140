"""The deadline of a frame and its split by stage: the only place where these numbers live."""

import math
from dataclasses import astuple, dataclass

STAGES = ("ingest", "preprocess", "inference", "postprocess", "publish")


@dataclass(frozen=True)
class Budget:
    """Milliseconds that each stage may take; their sum is the deadline from capture to publish."""

    ingest: float = 1.5
    preprocess: float = 1.0
    inference: float = 6.0
    postprocess: float = 0.5
    publish: float = 1.0

    @property
    def deadline_ms(self) -> float:
        """The deadline, from capture to publish, in milliseconds."""
        return float(sum(astuple(self)))

    @property
    def deadline_ns(self) -> int:
        """The deadline, from capture to publish, in nanoseconds."""
        return round(self.deadline_ms * 1e6)

    @classmethod
    def for_deadline(cls, deadline_ms: float) -> "Budget":
        """A budget with the default split, scaled to another deadline."""
        factor = deadline_ms / cls().deadline_ms
        return cls(*(share_ms * factor for share_ms in astuple(cls())))


def enough_ms(inference_ms: float) -> int:
    """A deadline, in tens of milliseconds, that inference takes at most half of."""
    return 10 * math.ceil(inference_ms / 5)


DEADLINE_MS = Budget().deadline_ms

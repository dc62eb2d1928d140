"""Which models the newest detections are of."""

from collections import Counter, deque

from perception_nodes.core.frame import FrameRecord

FRAMES = 300


class ModelShares:
    """Counts the models that ran for the last 300 published frames."""

    def __init__(self) -> None:
        self._models: deque[str] = deque(maxlen=FRAMES)

    def report(self, report: FrameRecord) -> None:
        """Take the report of a frame that has ended."""
        if report.published_ns:
            self._models.append(report.model.decode(errors="replace"))

    def shares(self) -> dict[str, float]:
        """Share of the frames by model, from 0 to 1, the greatest first."""
        counts = Counter(self._models).most_common()
        return {model: count / len(self._models) for model, count in counts}

"""Listens to a camera's topic for some seconds; prints as JSON what comes, or why nothing does."""

import json
import time
from dataclasses import replace
from statistics import median

from perception_nodes.cameras.awaited import ImageTopicFacts, Trouble, slow_transport, trouble_of
from perception_nodes.core.clock import MAX_SANE_AGE_NS
from perception_nodes.core.frame import FrameRejected
from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode
from perception_nodes.nodes.image_topic import ImageTopic
from perception_nodes.preprocess.formats import check_frame
from perception_nodes.transport.cdr_reader import Buffer, read_header

DISCOVERY_NS = 2_500_000_000
LISTENING_NS = 3_000_000_000


class ImageProbeNode(PerceptionNode):
    """Subscribes to the images as preprocessing does."""

    settings_type = PreprocessSettings
    shares_memory = False

    def open(self) -> None:
        """Subscribe."""
        self._begin_ns = time.monotonic_ns() + DISCOVERY_NS
        self._received = self._lost = self._changes = 0
        self._picture, self._refused = "", ""
        self._ways_ms: list[float] = []
        self._topic = ImageTopic(self, self.settings, self._take)
        self._topic.open()

    def rest(self) -> None:
        """Unsubscribe."""
        self._topic.close()

    def step(self) -> None:
        """Listen; at the end, print what came."""
        self._topic.receive(IDLE_WAIT_MS)
        now_ns = time.monotonic_ns()
        facts = self._topic.look()
        if facts is None or now_ns < self._begin_ns:
            return
        self._received += facts.received
        self._lost += facts.lost
        self._changes += facts.changes
        if now_ns > self._begin_ns + LISTENING_NS:
            heard = replace(facts, received=self._received, lost=self._lost, changes=self._changes)
            self._print(heard)
            self.finished = True

    def _take(self, data: Buffer, *_: object) -> None:
        stamp_ns, _frame_id = read_header(data)
        way_ns = time.time_ns() - stamp_ns
        if 0 <= way_ns < MAX_SANE_AGE_NS:
            self._ways_ms.append(way_ns / 1e6)
        if self._picture or self._refused:
            return
        try:
            view = self._topic.read(data)
            self._picture = view.encoding
            if view.width:
                check_frame(view)
                self._picture += f" {view.width}x{view.height}"
        except FrameRejected as error:
            self._refused = str(error)

    def _print(self, facts: ImageTopicFacts) -> None:
        trouble = trouble_of(facts) or (Trouble(self._refused) if self._refused else None)
        way_ms = median(self._ways_ms) if self._ways_ms else 0.0
        if trouble is None and way_ms > self.settings.deadline_ms / 2:
            trouble = slow_transport(way_ms, self.settings.deadline_ms)
        if trouble is None:
            senders = ", ".join(map(str, facts.publishers))
            found = f"{facts.received} frames of {self._picture} from {senders}, {facts.lost} lost"
            result = {"ok": True, "found": found, "remedy": ""}
        else:
            result = {"ok": False, "found": trouble.problem, "remedy": trouble.remedy}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    ImageProbeNode.main()

"""What a graph publishes of one frame after the other, without the graph: for who only listens."""

import itertools
import time
from contextlib import closing, contextmanager

from foxglove_msgs.msg import ImageAnnotations
from made_detections import detected
from perception_interfaces.msg import FrameReport, Health
from recorder import Recorder
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray, VisionInfo

from perception_nodes.core.frame import STAMPS, DetectionRecord
from perception_nodes.nodes.base import LATCHED
from perception_nodes.preprocess.placement import Placement
from perception_nodes.replay.background import repeated
from perception_nodes.transport.cdr_writer import write_detection_array
from perception_nodes.transport.channels import detection_writer, slot_writer
from perception_nodes.transport.shm import Endpoint

NAMES = ["person", "kart"]
CLASSES = tuple(name.encode() for name in NAMES)
SOURCE, INPUT = (320, 200), (160, 128)
BOX = (80.0, 50.0, 160.0, 150.0)
GREY = 130


class PlayedGraph:
    """Grey frames in slots with borders above and below, each with the same kart in it."""

    def __init__(self):
        self._recorder = Recorder("detector_node")
        self._recorder.node.declare_parameter("class_names", NAMES)
        create = self._recorder.node.create_publisher
        self._reports = create(FrameReport, "perception/frame_report", 10)
        self._healths = create(Health, "perception/health", LATCHED)
        self._tracked = create(Detection2DArray, "perception/tracked_detections", 10)
        self._stops = create(Bool, "perception/safe_stop", LATCHED)
        self.annotated = self._recorder.hear("perception/annotated/compressed", CompressedImage)
        self.annotations = self._recorder.hear("perception/annotations", ImageAnnotations)
        self._infos = create(VisionInfo, "perception/vision_info", LATCHED)
        self._endpoint = Endpoint("played_graph")
        self._slots = slot_writer(self._endpoint, "front", *INPUT)
        self._found = detection_writer(self._endpoint, "front")

    def play(self, number):
        """Everything about one frame; every tenth is late."""
        stamp_ns, begun_ns = time.time_ns(), time.monotonic_ns()
        slot = self._slots.loan()
        header = slot.header
        header.sequence, header.stamp_ns, header.capture_ns = number, stamp_ns, begun_ns
        header.ingested_ns = header.deadline_ns = begun_ns
        Placement.fit(SOURCE, INPUT).describe(header, copies=0)
        pixels = slot.payload.reshape(INPUT[1], INPUT[0], 3)
        pixels[:] = 0
        pixels[14:114] = GREY
        self._slots.send(slot)
        objects = detected([BOX], 0.75, 1)
        record = DetectionRecord(sequence=number, stamp_ns=stamp_ns, capture_ns=begun_ns)
        record.hold(objects)
        self._found.send_record(record)
        self._tracked.publish(write_detection_array(stamp_ns, b"camera", objects, CLASSES, [42]))
        # What none of our nodes would publish is among it: a listener goes on without that.
        self._reports.publish(FrameReport(camera="front", status=77))
        self._healths.publish(Health(mode=9))
        if number % 10 == 0:
            for name in ("not a name!/names", "/a//b/names", "/detector_node/class_names"):
                self._infos.publish(VisionInfo(database_location=name))
        self._reports.publish(self._report(number, stamp_ns, begun_ns))
        self._healths.publish(Health(mode=Health.UNSAFE, cause="a cause", faults=["a fault"]))
        self._stops.publish(Bool(data=True))
        next_s = time.monotonic() + 0.1
        self._recorder.until(lambda: time.monotonic() > next_s)

    def close(self):
        self._endpoint.close()
        self._recorder.close()

    def _report(self, number, stamp_ns, begun_ns):
        late = number % 10 == 0
        step_ns = 3_000_000 if late else 1_000_000
        report = FrameReport(
            camera="front",
            sequence=number,
            status=FrameReport.LATE if late else FrameReport.OK,
            reason="too slow" if late else "",
            model="toy",
            detections=1,
            **{name: begun_ns + place * step_ns for place, name in enumerate(STAMPS)},
        )
        report.header.stamp.sec, report.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        report.header.frame_id = "camera"
        return report


@contextmanager
def played():
    """A graph that plays until the context is left."""
    numbers = itertools.count(1)
    with closing(PlayedGraph()) as graph, repeated(lambda: graph.play(next(numbers)), 0):
        yield graph

"""Takes camera frames, and puts letterboxed frames into shared-memory slots."""

import time
from itertools import count

from rclpy.lifecycle import State, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo

from perception_nodes.cameras.awaited import Trouble, channel_trouble, rivals, trouble_of
from perception_nodes.cameras.channel import camera_names, camera_reader, camera_senders
from perception_nodes.cameras.intake import Intake
from perception_nodes.cameras.requested_regions import RequestedRegions
from perception_nodes.core.budget import Budget
from perception_nodes.core.failover import MS
from perception_nodes.core.frame import FrameRejected
from perception_nodes.graph.config import PreprocessSettings, most_looks
from perception_nodes.graph.topics import info_topic
from perception_nodes.networks.model import load_model
from perception_nodes.nodes.base import IDLE_WAIT_MS, Period
from perception_nodes.nodes.camera_input import CameraInput
from perception_nodes.nodes.image_topic import LOOK_PERIOD_NS, QUEUE, ImageTopic, full_name
from perception_nodes.nodes.image_transports import TRANSPORTS
from perception_nodes.nodes.redundant import RedundantNode
from perception_nodes.nodes.ros_time import ros_clock
from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.ingest import Ingest
from perception_nodes.preprocess.lens import UnknownLens, is_rectified
from perception_nodes.preprocess.plausibility import PictureJudge
from perception_nodes.system.life import own_incarnation
from perception_nodes.system.realtime import RANKS
from perception_nodes.transport import channels
from perception_nodes.transport.cdr_reader import Buffer, read_camera_info, read_header
from perception_nodes.video.packet_decoder import VideoDecoder


class PreprocessNode(RedundantNode):
    """Does the first half of a frame's way: ingest and preprocessing."""

    role = "preprocess"
    rank = RANKS["preprocess"]
    settings_type = PreprocessSettings

    def __init__(self, name: str) -> None:
        """Number frames from 0."""
        super().__init__(name)
        self._sequences = count()

    def open(self) -> None:
        """Join the channels, subscribe to the camera."""
        settings: PreprocessSettings = self.settings
        model = load_model(settings.model, settings.model_key)
        preprocessor = model.input.preprocessor(settings.undistort, settings.sample_bits)
        self._preprocessor, self._last_info, self._info_topic = preprocessor, b"", ""
        self._judge = PictureJudge(model.input.padding)
        self._first_info = self._used_info = b""
        camera = settings.camera, Budget.for_deadline(settings.deadline_ms), ros_clock(self)
        numbered = self._sequences, own_incarnation()
        ingest = Ingest(preprocessor, *camera, *numbered, self._judge)
        in_place = settings.preprocess_on == "gpu"
        size = (0, 0) if in_place else (model.input.width, model.input.height)
        slots = channels.slot_writer(self.endpoint, settings.camera, *size)
        if settings.calibration_file:
            preprocessor.calibrate(read_calibration(settings.calibration_file))
        elif is_rectified(settings.image_topic):
            self.get_logger().info(f"{settings.image_topic} is rectified already, by its name")
        else:
            topic = info_topic(settings.image_topic)
            subscribed = self.add_subscription(CameraInfo, topic, self._on_camera_info, QUEUE)
            self._info_topic = subscribed.topic_name
        # Announce such work from here on: nobody waits for a node that has not joined.
        preprocessor.placer.preparing = self.busy
        self._unfit, self._bits = "", 0  # kinds of trouble with frames that were logged
        self._camera = self._topic = None
        video = VideoDecoder(self.busy) if TRANSPORTS[settings.image_transport].is_video else None
        if settings.source != "dds":
            self._camera = camera_reader(self.endpoint, settings.camera)
            waits = self._camera.has_samples
        else:
            self._topic = ImageTopic(self, settings, self._take_message)
            waits = self._topic.waits
        self._input = CameraInput(self)
        self._look_due, self._came = Period(LOOK_PERIOD_NS), 0
        self.join(round(settings.hang_after_ms * 1e6))
        shape = None if in_place else (model.input.height, model.input.width, 3)
        regions = None
        if most_looks(settings):
            joined = self.endpoint, settings.camera, size, model.input.padding
            regions = RequestedRegions(*joined, preprocessor, waits)
        lease, changed = self.lease, self._input.changed
        self._intake = Intake(ingest, slots, shape, video, self.records, lease, changed, regions)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Note which cameras there are, before others know that we listen and begin to film."""
        if self._camera is not None:
            self._intake.earlier = camera_names(self.endpoint, self.settings.camera)
        return super().on_activate(state)

    def take_over(self, died: bool) -> None:
        """Go on behind the last frame of the predecessor, which may not have reported it."""
        self._began_ns = time.monotonic_ns()
        # The predecessor took its last frame at some earlier time.
        self.frame_ns = self._began_ns if self.lease.note.source else 0
        self._intake.take_over(died)
        if self._topic is not None:
            self._topic.open()

    def rest(self) -> None:
        """Let another one work."""
        super().rest()
        if self._topic is not None:
            self._topic.close()

    def step(self) -> None:
        """Look after the awaited camera, and work or stand by."""
        self._look_after_camera()
        super().step()

    def work(self) -> None:
        """Wait for frames, and take them."""
        if self._topic is not None:
            self._topic.receive(IDLE_WAIT_MS)
            return
        assert self._camera is not None
        self._camera.wait(IDLE_WAIT_MS)
        pending = self._camera.receive()
        while pending is not None:
            sample, pending = pending, self._camera.receive()
            now_ns = time.monotonic_ns()
            self.sign()
            self._intake.take_sample(sample, now_ns, superseded=pending is not None)
            if not self._intake.notice:
                self.frame_ns, self._came = now_ns, self._came + 1
            sample.release()

    def _take_message(
        self,
        data: Buffer,
        source: int,
        number: int | None,
        received_ns: int,
        waited_ns: int,
        superseded: bool,
    ) -> None:
        """Take a frame from DDS."""
        assert self._topic is not None
        self.frame_ns = received_ns
        self.sign()
        if number is not None:
            stamp_ns, _ = read_header(data)
            named = source, number, received_ns, 0, stamp_ns, self._topic.begins_at
            if not self._intake.is_new(*named):
                return
        try:
            image = self._topic.read(data)
        except FrameRejected as error:
            self._intake.reject(str(error), received_ns, *read_header(data))
        else:
            self._intake.take(image, received_ns, waited_ns, superseded, self._topic.copies)

    def _on_camera_info(self, data: bytes) -> None:
        # The header's stamp changes with each message, the calibration behind it does not.
        if data[12:] == self._last_info:
            return
        self._last_info = data[12:]
        try:
            with self.busy():
                self._preprocessor.calibrate(read_camera_info(data))
            self._used_info = data[12:]
            self._first_info = self._first_info or self._used_info
        except FrameRejected as error:
            said = f"a CameraInfo is not used, what was known before stays in force: {error}"
            self.get_logger().warning(said)
        except UnknownLens as error:
            self.get_logger().warning(f"frames are processed without calibration: {error}")

    def _look_after_camera(self) -> None:
        """Report once a second why no frames come, if there was none for `no_frame_ms`."""
        settings: PreprocessSettings = self.settings
        if self._topic is not None:
            facts = self._topic.look()
            if facts is None:
                return
            came, trouble = facts.received + facts.lost, trouble_of(facts)
        elif self._look_due.due():
            came, self._came = self._came, 0
            senders = camera_senders(self.endpoint, settings.camera)
            awaited = settings.camera, settings.source, senders, self._intake.notice
            trouble = None if came else channel_trouble(*awaited)
            changed_to, self._intake.changed_to = self._intake.changed_to, []
            if len(changed_to) > 1:
                names = camera_names(self.endpoint, settings.camera)
                trouble = rivals(settings.camera, changed_to, names)
        else:
            return
        self._log_bits()
        now_ns = time.monotonic_ns()
        # Frames in the second of the takeover came to the predecessor.
        if self._working and now_ns > self._began_ns + LOOK_PERIOD_NS:
            is_missed = now_ns > self.frame_ns + settings.no_frame_ms * MS
            trouble = trouble or self._other_calibration() or self._misfit() or self._implausible()
            self._input.report(trouble if came or is_missed else None)

    def _other_calibration(self) -> Trouble | None:
        """Whether several nodes say what the camera's lens is, or one did that has gone."""
        infos = self.get_publishers_info_by_topic(self._info_topic) if self._info_topic else ()
        names = sorted({full_name(info) for info in infos} - {""})
        if len(names) > 1:
            problem = f"{self._info_topic} is published by {', '.join(names)}"
            return Trouble(problem, "give each camera a topic of its own")
        if not infos and self._used_info != self._first_info:
            return Trouble(f"{self._info_topic}: who has changed the calibration is gone")
        return None

    def _misfit(self) -> Trouble | None:
        """What is wrong with frames that do not fit their calibration."""
        placer = self._preprocessor.placer
        before, self._unfit = self._unfit, placer.unfit
        if placer.is_fault:
            return Trouble(placer.unfit, "correct the calibration, or undistort:=false")
        if placer.unfit not in ("", before):
            self.get_logger().info(placer.unfit)
        return None

    def _implausible(self) -> Trouble | None:
        """What is wrong with the pictures themselves."""
        why = self._judge.trouble
        return Trouble(why, "look at the lens and at what is before it") if why else None

    def _log_bits(self) -> None:
        """Log how many bits of 16-bit samples are significant, if that was learned."""
        bits = self._preprocessor.sample_bits
        if bits not in (0, 8, self._bits, self.settings.sample_bits):
            scaled = f"the brightest frames need {bits} bits a sample, and all are scaled by it now"
            self.get_logger().warning(f"{scaled}; if the camera has others, set sample_bits")
        self._bits = bits


if __name__ == "__main__":
    PreprocessNode.main()

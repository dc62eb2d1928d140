"""The stages on a GPU, with kernels compiled for the host: memory, graphs, frames.

The GPU is `fake_gpu.py`: it has addresses of its own, and does nothing before it is waited for.
"""

import ctypes
import mmap
import os
import tempfile
from unittest.mock import Mock

import decode_oracle
import numpy as np
import preprocess_oracle
import pytest
from fake_gpu import DEVICE_BASE, Verdict
from pictures import frame, noise, view
from specification import same
from test_cpu import BARREL

from perception_nodes.cameras.channel import camera_reader, camera_writer
from perception_nodes.core.decode import AbsurdOutput, DecodeSettings
from perception_nodes.core.frame import FrameRejected
from perception_nodes.gpu import stages
from perception_nodes.gpu.cuda import CudaError, open_device
from perception_nodes.gpu.decode_job import Head
from perception_nodes.gpu.frame_memory import FrameMemory
from perception_nodes.gpu.preprocess_job import FrameCell, PreprocessJob, plan_frame
from perception_nodes.preprocess.lens import lens_from
from perception_nodes.preprocess.placement import Placement
from perception_nodes.transport.remains import sweep
from perception_nodes.transport.shm import Endpoint

HEAD = Head(96, 64, (8, 16), 4, 3)
SIZE, SHAPE, NBYTES = (96, 64), (64, 96, 3), 96 * 64 * 3
SETTINGS = DecodeSettings(0.35, 0.6)
PLACEMENT = Placement.fit((320, 240), (96, 64), None)


@pytest.fixture
def device(gpu):
    device = open_device()
    yield device
    device.close()
    assert not +gpu.open


class Camera:
    """A detector whose network answers each picture with tensors of our choice."""

    capturable = True

    def __init__(self, device, gpu):
        self.device, self.gpu = device, gpu
        self.stream = device.stream()
        self.image = device.memory(NBYTES)
        random = np.random.default_rng(4)
        self.boxes, self.classes, self.memory, tensors = [], [], [], []
        for stride in HEAD.strides:
            size = HEAD.size(stride)
            self.boxes.append(random.normal(0, 2, (1, 16, *size)).astype(np.float32))
            self.classes.append(random.normal(-1, 2, (1, 3, *size)).astype(np.float32))
            pair = device.memory(self.boxes[-1].nbytes), device.memory(self.classes[-1].nbytes)
            self.memory.append(pair)
            tensors.append((pair[0].address, pair[1].address))
        self.seen = []
        decoding = stages.Decoding(device, HEAD, SETTINGS, tensors, self.stream)
        network = stages.NetworkStage(
            device, self.image.address, tensors, self.infer, lambda stream: self.capturable
        )
        self.detector = stages.GpuDetector(self.stream, SIZE, network, decoding)

    def infer(self, stream):
        def run():
            self.seen.append(self.gpu.view(self.image.address, NBYTES).copy())
            for pair, box, logits in zip(self.memory, self.boxes, self.classes, strict=True):
                self.gpu.view(pair[0].address, box.nbytes)[:] = box.reshape(-1).view(np.uint8)
                self.gpu.view(pair[1].address, logits.nbytes)[:] = logits.reshape(-1).view(np.uint8)

        self.gpu.stream_at(stream.handle).put(run)

    def detect(self, image, placement):
        self.detector.launch(image, placement)
        self.last = self.detector.result()
        return self.last.detections()

    def check(self, image, info=None):
        """Detect, and compare picture and boxes with the specifications; returns the copies."""
        placement = Placement.fit((image.width, image.height), (96, 64), info and lens_from(info))
        found = self.detect(image, placement)
        plan = plan_frame(image, placement.letterbox, placement.grid())
        picture = preprocess_oracle.preprocess(np.frombuffer(image.data, np.uint8), plan)
        np.testing.assert_array_equal(self.seen[-1].reshape(SHAPE), picture)
        expected = decode_oracle.decode(self.boxes, self.classes, HEAD, SETTINGS, placement)
        for name in ("count", "found", "entered", "kept", "absurd"):
            assert getattr(self.last, name) == getattr(expected, name)
        assert len(found) == expected.count > 0
        same(found, expected.detections())
        return self.detector.copies


@pytest.fixture
def camera(device, gpu):
    return Camera(device, gpu)


@pytest.fixture
def shared():
    """Shared memory as iceoryx2 maps it: a file in /dev/shm, which the reader may only read."""
    made = []

    def make(nbytes, at=None):
        file = tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="test_gpu_")
        os.truncate(file.name, nbytes)
        writer = mmap.mmap(file.fileno(), nbytes)
        reader = mmap.mmap(file.fileno(), nbytes, prot=mmap.PROT_READ)
        made.append((file, writer, reader))
        return np.frombuffer(writer, np.uint8), np.frombuffer(reader, np.uint8)

    yield make
    made.clear()


def slot(shared_memory, image, offset):
    """The frame in shared memory, at an offset in bytes."""
    writer, reader = shared_memory
    data = np.frombuffer(image.data, np.uint8)
    writer[offset : offset + data.size] = data
    inside = reader[offset : offset + data.size]
    return view(image.width, image.height, image.encoding, image.step, memoryview(inside))


@pytest.fixture
def image():
    return frame(noise(320, 240), "nv12")


class TestDetector:
    @pytest.mark.parametrize("encoding", ["bgr8", "nv12", "yuyv", "bayer_rggb8"])
    def test_a_frame_becomes_what_the_specifications_say(self, camera, encoding):
        camera.check(frame(noise(320, 240), encoding, padding=8))

    def test_another_size_encoding_or_calibration_is_fitted_at_that_frame(self, camera, gpu):
        camera.check(frame(noise(640, 480), "bgr8"))
        camera.check(frame(noise(320, 480), "bgr8"))
        camera.check(frame(noise(320, 480), "rgb8"))
        camera.check(frame(noise(640, 480), "rgb8"), BARREL)
        assert gpu.open["graph"] == 1, "the others are given back"

    def test_once_the_graph_is_there_nothing_allocates(self, camera, gpu, shared, image):
        memory = shared(4 * len(image.data))
        camera.check(slot(memory, image, 0))
        before = gpu.calls.copy()
        for number in range(1, 4):
            camera.check(slot(memory, frame(noise(320, 240, number), "nv12"), 200 * number))
        assert {name: gpu.calls[name] - before[name] for name in +(gpu.calls - before)} == {
            "cuGraphLaunch": 3,
            "cuStreamSynchronize": 3,
        }

    @pytest.mark.parametrize(
        ("image", "reason"),
        [
            (view(4, 4, "bgr8", 12, bytes(47)), "47 bytes are fewer than 4 rows of 12"),
            (view(0, 0, "jpeg", 0, bytes(47)), "jpeg: the GPU's preprocessing reads uncompressed"),
            (view(320, 240, "nv12", 320, bytes(99)), "99 bytes are fewer"),
        ],
    )
    def test_a_rejected_frame_leaves_the_next_one_untouched(self, camera, image, reason):
        camera.check(frame(noise(320, 240), "nv12"))
        with pytest.raises(FrameRejected, match=reason):
            camera.detect(image, PLACEMENT)
        camera.check(frame(noise(320, 240, 1), "nv12"))

    def test_absurd_output_is_told_and_leaves_the_next_frame_untouched(self, camera, image):
        sane, camera.classes[1] = camera.classes[1], np.full_like(camera.classes[1], np.nan)
        with pytest.raises(AbsurdOutput, match="class logits at stride 16"):
            camera.detect(image, PLACEMENT)
        camera.classes[1] = sane
        camera.check(image)

    def test_an_answer_that_is_another_frames_is_an_error(self, camera, gpu, image):
        camera.check(image)
        gpu.kernels["suppress"] = lambda *_: None
        with pytest.raises(CudaError, match="result is of frame 1, not of 2"):
            camera.detect(image, PLACEMENT)

    def test_a_network_that_cannot_be_captured_runs_without_a_graph(self, camera, gpu):
        camera.capturable = False
        for seed in range(2):
            camera.check(frame(noise(320, 240, seed), "nv12"))
        assert gpu.open["graph"] == 0

    def test_a_capture_that_failed_is_tried_again(self, camera, gpu, image):
        gpu.failures["cuStreamBeginCapture"] = Verdict.CUDA_ERROR_OUT_OF_MEMORY
        with pytest.raises(CudaError, match="out of memory"):
            camera.detect(image, PLACEMENT)
        del gpu.failures["cuStreamBeginCapture"]
        camera.check(image)


class TestHowFramesCome:
    @pytest.mark.parametrize(
        ("costs", "way"), [({"copy": 0.3}, "fetch"), ({"fetch": 0.3}, "copy"), ({}, "fetch")]
    )
    def test_over_a_bus_in_the_way_that_is_faster_on_this_card(
        self, camera, gpu, shared, costs, way
    ):
        gpu.costs = costs
        image = frame(noise(320, 240), "nv12")
        memory = shared(4 * len(image.data))
        assert camera.check(slot(memory, image, 0)) == 0
        transfer = camera.detector.preprocessing.transfer
        assert transfer.way == way
        if slower := max(costs, default=None):
            assert transfer.took_us[slower] == pytest.approx(transfer.took_us[way] + 300)
        for number in range(1, 4):
            image = frame(noise(320, 240, number), "nv12")
            assert camera.check(slot(memory, image, 999 * number)) == 0

    @pytest.mark.parametrize("way", ["in place", "fetch"])
    def test_without_a_copy_on_a_gpu_that_shares_the_hosts_memory(self, gpu, shared, way):
        """It may read that memory as fast as any other, or uncached."""

        preprocess = gpu.kernels["preprocess"]

        def uncached(gpu, grid, block, packed):
            address = PreprocessJob.from_buffer_copy(packed).frame
            cell = FrameCell.from_buffer_copy(gpu.view(address, ctypes.sizeof(FrameCell)))
            gpu.pass_ms(0.0 if cell.pixels >= DEVICE_BASE else 0.3)
            preprocess(gpu, grid, block, packed)

        gpu.integrated = 1
        if way == "in place":
            gpu.costs["fetch"] = 0.1
        else:
            gpu.kernels["preprocess"] = uncached
        device = open_device()
        camera = Camera(device, gpu)
        image = frame(noise(320, 240), "nv12")
        assert camera.check(slot(shared(len(image.data)), image, 0)) == 0
        transfer = camera.detector.preprocessing.transfer
        assert transfer.way == way and set(transfer.took_us) == {"in place", "fetch"}
        device.close()

    def test_a_frame_that_is_placed_for_another_network_is_rejected(self, camera, image):
        """The kernel would write beyond the network's input."""
        with pytest.raises(FrameRejected, match=r"for an input of \(96, 96\), not \(96, 64\)"):
            camera.detect(image, Placement.fit((320, 240), (96, 96), None))
        camera.check(image)


class TestWhereFramesLie:
    def test_shared_memory_is_read_in_place(self, camera, shared, gpu):
        image = frame(noise(320, 240), "bgr8")
        memory = shared(312 + 3 * len(image.data))
        for number in range(3):
            image = frame(noise(320, 240, number), "bgr8")
            assert camera.check(slot(memory, image, 312 + number * len(image.data))) == 0
        assert gpu.calls["cuMemHostRegister"] == 1

    def test_so_is_what_we_may_only_read(self, camera, shared, gpu, monkeypatch):
        image = frame(noise(320, 240), "bgr8")
        there = slot(shared(len(image.data)), image, 0)
        refuse = Mock(side_effect=PermissionError)
        monkeypatch.setattr("perception_nodes.gpu.frame_memory.os.open", refuse)
        assert camera.check(there) == 0
        assert gpu.calls["read only"] == 1

    def test_so_is_a_cameras_frame_also_after_the_camera_was_started_again(self, camera):
        reader_side = Endpoint("test_gpu_reader")
        reader = camera_reader(reader_side, "test_gpu")
        for seed in range(2):
            writer_side = Endpoint("test_gpu_writer")
            writer = camera_writer(writer_side, "test_gpu", 320 * 240 * 3)
            for number in range(2):
                image = frame(noise(320, 240, 2 * seed + number), "bgr8")
                sample = writer.loan()
                sample.payload[:] = np.frombuffer(image.data, np.uint8)
                writer.send(sample)
                received = reader.receive()
                assert received is not None
                assert camera.check(view(320, 240, "bgr8", 960, memoryview(received.payload))) == 0
                received.release()
            writer_side.close()
        camera.detector.close()
        reader_side.close()
        sweep()

    def test_of_a_large_segment_the_front_is_registered_and_more_if_need_be(
        self, device, shared, gpu
    ):
        frames = FrameMemory(device)
        writer, reader = shared(64 * 4096)
        writer[:] = np.random.default_rng(0).integers(0, 256, writer.size)
        for first in (0, 4096 * 5, 4096 * 50, 0):
            inside = reader[first : first + 4096]
            address, copies = frames.locate(memoryview(inside))
            assert copies == 0
            np.testing.assert_array_equal(gpu.view(address, 4096), inside)
        assert gpu.calls["cuMemHostRegister"] == 2
        assert gpu.open["mapped"] == 1

    def test_what_the_driver_refuses_is_copied_and_not_asked_again(self, camera, shared, gpu):
        gpu.failures["cuMemHostRegister"] = Verdict.CUDA_ERROR_INVALID_VALUE
        image = frame(noise(320, 240), "bgr8")
        memory = shared(12 * len(image.data))
        for number in range(3):
            assert camera.check(slot(memory, image, 4096 * number)) == 1
        assert gpu.calls["cuMemHostRegister"] == 1

    def test_where_mappings_are_not_told_frames_are_copied_and_say_so(
        self, camera, shared, gpu, monkeypatch
    ):
        """Otherwise each frame would register its memory anew, in more time than a copy takes."""

        hidden = Mock(side_effect=PermissionError)
        monkeypatch.setattr("perception_nodes.gpu.frame_memory.os.readlink", hidden)
        elsewhere = Camera(camera.device, gpu)
        image = frame(noise(320, 240), "bgr8")
        memory = shared(3 * len(image.data))
        for number in range(3):
            image = frame(noise(320, 240, number), "bgr8")
            assert elsewhere.check(slot(memory, image, number * len(image.data))) == 1
        assert elsewhere.detector.preprocessing.frames.registrations == 0

    def test_the_memory_of_a_camera_that_has_gone_is_given_back(self, device, gpu):
        frames, size = FrameMemory(device), 1 << 16
        frames.reserve(size)
        held, former = [], mmap.mmap(-1, size)
        for _ in range(5):
            with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
                os.truncate(file.name, size)
                memory = mmap.mmap(file.fileno(), size)
            former.close()  # only now: the next one lies elsewhere
            assert frames.locate(memoryview(memory))[1] == 0
            held.append(gpu.open["mapped"])
            former = memory
        assert held == [2] * 5  # one of them is the room for copies
        frames.close()

    def test_another_file_at_the_same_address_is_registered_anew(self, device, gpu, tmp_path):
        """The memory of a restarted camera may be mapped where its predecessor's was."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        frames, size, fixed, address = FrameMemory(device), 1 << 16, 0x10, None
        frames.reserve(size)
        for _ in range(2):
            with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
                os.truncate(file.name, size)
                flags = mmap.MAP_SHARED | (fixed if address else 0)
                address = libc.mmap(address, size, mmap.PROT_READ, flags, file.fileno(), 0)
                array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
                for _ in range(2):
                    assert frames.locate(memoryview(array))[1] == 0
        assert gpu.calls["cuMemHostRegister"] == 2
        assert gpu.open["mapped"] == 2  # one of them is the room for copies
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
        assert frames.locate(memoryview(np.zeros(9, np.uint8)))[1] == 1

"""Models that read camera frames in place, on street frames and with a real network's results.

The GPU is `fake_gpu.py` with kernels compiled for the host, TensorRT is ONNX Runtime.
"""

from types import SimpleNamespace

import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import Verdict
from hypothesis import given
from hypothesis import strategies as st
from pictures import frame, noise, view
from specification import same, specified
from test_cpu import BARREL

from perception_nodes.backends.contract import BackendSettings, open_model
from perception_nodes.backends.in_place import InPlaceOnCpu, InPlaceOnGpu, PlacementCache
from perception_nodes.backends.serving import LoadedModels
from perception_nodes.core.clock import SystemClock
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import FrameHeader, FrameRejected, FrameStatus
from perception_nodes.core.geometry import Lens, pairwise_iou
from perception_nodes.core.inference import BackendLost, Candidate
from perception_nodes.core.pipeline import Pipeline, detect_together
from perception_nodes.drives.bag import open_drive
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.placement import Placement, Placer
from perception_nodes.transport.cdr_reader import read_image

CAMERAS = ("front", "rear")
SETTINGS = DecodeSettings()


@pytest.fixture(scope="module")
def runtime(model):
    with open_model("onnxruntime", model, BackendSettings(threads=1)) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def street(root):
    """Frames of the sample drive, unprocessed."""
    sample = root / "bags/sample"
    if not (sample / "metadata.yaml").is_file():
        pytest.skip("the sample drive is not made (make sample)")
    drive = open_drive(sample, "")
    return [read_image(one.data) for one in drive.frames() if one.index % 4 == 0]


@pytest.fixture
def gpu(gpu, monkeypatch, model, runtime):
    def network(memory):
        heads = runtime.infer(memory.reshape(model.input.height, model.input.width, 3))
        names = [*model.outputs.box, *model.outputs.classes]
        return dict(zip(names, [*heads.boxes, *heads.classes], strict=True))

    fake_tensorrt.install(monkeypatch, fake_tensorrt.make(gpu, network=network))
    return gpu


@pytest.fixture
def candidate(gpu, model, tmp_path):
    """A model that reads in place on the GPU."""
    settings = BackendSettings(cache_dir=str(tmp_path), max_batch=len(CAMERAS))
    loaded = LoadedModels("tensorrt", [model], settings, SETTINGS, CAMERAS)
    (candidate,) = loaded.candidates
    assert isinstance(candidate.in_place, InPlaceOnGpu)
    yield candidate
    loaded.close()
    assert not +gpu.open


@pytest.fixture
def pipeline(candidate):
    return Pipeline([candidate], SystemClock(), skip_late=False)


def slot_of(image, placer, camera="front"):
    """The header of a slot that describes a frame."""
    header = FrameHeader(camera=camera.encode(), deadline_ns=1 << 62)
    placer.place(image.width, image.height).describe(header, image.copies)
    return header


def placer_of(model, info=None):
    placer = Placer(model.input.width, model.input.height, undistort=True)
    if info is not None:
        placer.calibrate(info)
    return placer


def test_objects_of_the_street_are_those_of_the_specifications(pipeline, street, model, runtime):
    placer, objects = placer_of(model), 0
    for image in street:
        record, found = pipeline.detect(slot_of(image, placer), image)
        same(found, specified(image, placer.place(image.width, image.height), model, runtime))
        assert (pipeline.published(record).status, record.model) == (FrameStatus.OK, b"open-xs")
        # A frame in our own memory, not in a camera's channel, has to be copied.
        assert record.copies == image.copies + 1
        objects += len(found)
    assert objects > 10


def test_they_are_nearly_those_found_with_preprocessing_on_the_cpu(
    pipeline, street, model, runtime
):
    """OpenCV rounds differently from the kernel, which affects only few objects."""
    placer, pairs, alone = placer_of(model), 0, 0
    reader = InPlaceOnCpu(runtime, model, CAMERAS)
    candidate = Candidate("cpu", runtime, model.decoder(SETTINGS), 1, in_place=reader)
    on_cpu = Pipeline([candidate], SystemClock(), skip_late=False)
    for image in street:
        header = slot_of(image, placer)
        record, theirs = on_cpu.detect(header, image)
        assert record.copies == image.copies
        _, ours = pipeline.detect(header, image)
        for one, others in ((theirs, ours), (ours, theirs)):
            for box in one.boxes[one.scores > 0.45]:
                paired = (pairwise_iou(box[None], others.boxes) > 0.75).any()
                pairs, alone = pairs + paired, alone + (not paired)
    assert pairs > 20 and alone <= pairs // 10


def test_each_camera_keeps_its_graph(candidate, pipeline, gpu, model, runtime):
    placers = {"front": placer_of(model, BARREL), "rear": placer_of(model)}
    images = {"front": frame(noise(640, 480), "bgr8"), "rear": frame(noise(320, 240), "nv12")}
    slots, expected = {}, {}
    for camera, image in images.items():
        slots[camera] = slot_of(image, placers[camera], camera)
        candidate.in_place.prepare(slots[camera], image)
        placement = placers[camera].place(image.width, image.height)
        expected[camera] = specified(image, placement, model, runtime)
    graphs = gpu.calls["cuGraphInstantiate"]
    for camera in ("front", "rear", "rear", "front"):
        _, found = pipeline.detect(slots[camera], images[camera])
        same(found, expected[camera])
    both = detect_together([(pipeline, slots[name], images[name]) for name in CAMERAS])
    for camera, (_, found) in zip(CAMERAS, both, strict=True):
        same(found, expected[camera])
    assert gpu.calls["cuGraphInstantiate"] == graphs


def test_the_context_is_set_whatever_another_library_has_set(candidate, gpu, street, model):
    frames = [(slot_of(street[0], placer_of(model)), street[0])]
    reader = candidate.in_place
    for enter in (lambda: reader.prepare(*frames[0]), lambda: reader.infer(frames), reader.close):
        gpu.current_context = "another library's"
        enter()


def test_a_frame_that_cannot_be_read_fails_and_the_next_one_is_ok(pipeline, street, model):
    placer, image = placer_of(model), street[0]
    header = slot_of(image, placer)
    header.source_width //= 2
    record, found = pipeline.detect(header, image)
    assert (record.status, found) == (FrameStatus.FAILED, None)
    assert b"the slot describes a frame of" in record.reason
    record, found = pipeline.detect(slot_of(image, placer), image)
    assert found is not None and pipeline.lost is None


def test_a_device_that_fails_is_lost(pipeline, gpu, street, model):
    image, header = street[0], slot_of(street[0], placer_of(model))
    gpu.failures["cuGraphLaunch"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    record, found = pipeline.detect(header, image)
    assert (record.status, found) == (FrameStatus.FAILED, None)
    assert isinstance(pipeline.lost, BackendLost)


def test_what_fails_at_the_start_is_told_and_all_is_closed(gpu, model, tmp_path):
    settings = BackendSettings(cache_dir=str(tmp_path))
    suppress = gpu.kernels["suppress"]

    def last_that_works(*arguments):
        suppress(*arguments)
        calls = ("cuGraphLaunch", "cuGraphExecDestroy", "cuMemHostUnregister")
        gpu.failures |= dict.fromkeys(calls, Verdict.CUDA_ERROR_ILLEGAL_ADDRESS)

    gpu.kernels["suppress"] = last_that_works
    with pytest.raises(BackendLost, match="cuGraphLaunch"):
        LoadedModels("tensorrt", [model], settings, SETTINGS, CAMERAS)
    assert gpu.open["context"] == 0


def test_a_camera_without_room_fails_alone(candidate, pipeline, gpu, street, model):
    slots = {name: slot_of(street[0], placer_of(model), name) for name in CAMERAS}
    larger = frame(noise(640, 480), "bgr8")
    for name in CAMERAS:
        candidate.in_place.prepare(slots[name], street[0])
    gpu.failures["cuMemAlloc"] = Verdict.CUDA_ERROR_OUT_OF_MEMORY
    rear = slot_of(larger, placer_of(model), "rear")
    frames = [(pipeline, slots["front"], street[0]), (pipeline, rear, larger)]
    (front, found), (failed, nothing) = detect_together(frames)
    assert found is not None and front.status == FrameStatus.OK
    assert (failed.status, nothing) == (FrameStatus.FAILED, None)
    assert b"out of memory" in failed.reason and pipeline.lost is None
    del gpu.failures["cuMemAlloc"]
    _, again = detect_together([(pipeline, slots["front"], street[0]), (pipeline, rear, larger)])
    assert again[1] is not None


def test_on_the_cpu_each_camera_keeps_its_lens(model):
    placers = {"front": placer_of(model, BARREL), "rear": placer_of(model)}
    image, shape = frame(noise(640, 480), "bgr8"), (model.input.height, model.input.width, 3)
    expected, seen = np.empty(shape, np.uint8), []
    backend = SimpleNamespace(infer=lambda image: seen.append(image.copy()))
    on_cpu = InPlaceOnCpu(backend, model, CAMERAS)
    for camera in ("front", "rear", "front"):
        on_cpu.infer([(slot_of(image, placers[camera], camera), image)])
        processor = Preprocessor(shape[1], shape[0], undistort=camera == "front")
        processor.calibrate(BARREL)
        processor.write(image, expected, FrameHeader())
        np.testing.assert_array_equal(seen[-1], expected)


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.none() | st.tuples(*[st.floats(-0.2, 0.2)] * 8),
    st.booleans(),
)
def test_a_header_tells_the_placement_that_was_described(width, height, distortion, fisheye):
    lens = None
    rectified = (0.0, 0.0, 0.0, 0.0)
    if distortion is not None:
        lens, rectified = Lens((300.0, 301.0, 9.0, 8.0), distortion, fisheye), (2.0, 3.0, 4.0, 5.0)
    fitted = Placement.fit((width, height), (416, 256), None)
    placement = Placement(fitted.letterbox, width, height, lens, rectified)
    header, known = FrameHeader(), PlacementCache()
    placement.describe(header, 0)
    image = view(width, height, "bgr8", 3 * width, b"")
    assert known.of(header, image) == placement
    assert known.of(FrameHeader.from_buffer_copy(header), image) is known.of(header, image)
    header, image = FrameHeader(), view(width + 1, height, "bgr8", 3 * width + 3, b"")
    another = Placement.fit((width + 1, height), (416, 256), None)
    another.describe(header, 0)
    assert known.of(header, image) == another


def test_on_the_cpu_too_a_frame_is_only_read_where_it_is_said_to_lie(model, runtime):
    image = frame(noise(320, 240), "bgr8")
    header = slot_of(image, placer_of(model))
    header.source_width //= 2
    (answer,) = InPlaceOnCpu(runtime, model, CAMERAS).infer([(header, image)])
    assert isinstance(answer, FrameRejected)

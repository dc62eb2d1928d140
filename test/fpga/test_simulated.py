"""The whole detector on the simulated engine: its RTL, the driver and real frames, bit for bit.

A frame here, and faults on the smaller build alone; with FPGA_FRAMES=100 in the environment, which
`make fpga-test` sets, as many frames, and everything on both builds.
"""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from plain_network import PlainNetwork
from random_networks import networks
from street_frames import spread, street_frames
from typer.testing import CliRunner

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.cli.app import app
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.compiler import compile_network
from perception_nodes.fpga.driver import EngineDriver
from perception_nodes.fpga.layout import Register
from perception_nodes.fpga.simulated import SimulatedEngine
from perception_nodes.networks.model import load_model

FRAMES = int(os.environ.get("FPGA_FRAMES", "1"))
EXAMPLES = int(os.environ.get("FPGA_EXAMPLES", "10"))
BUILDS = (512, 1024)
FEWER = BUILDS if FRAMES > 1 else BUILDS[:1]
SMALL = "open-xs"
MODELS = ("open-n", SMALL)
MODEL_ERROR = 0.05
"""Of the cycles that the compiler tells."""


@pytest.fixture(params=BUILDS)
def macs(request, root, monkeypatch):
    """A build of the engine, selected by the environment variable."""
    library = root / f"build/fpga/libengine_{request.param}.so"
    if not library.is_file():
        pytest.skip(f"{library.name} is not built (make fpga-sim)")
    monkeypatch.setenv("PERCEPTION_FPGA", str(library))
    return request.param


fewer_builds = pytest.mark.parametrize("macs", FEWER, indirect=True)


def opened(model):
    backend = open_backend("fpga", BackendSettings())
    backend.info = backend.load(model)
    return backend


def bus(backend):
    return backend.driver.bus


def heads(found):
    return [*found.boxes, *found.classes]


def check(found, wanted, names):
    for name, a, b in zip(names, heads(found), wanted, strict=True):
        np.testing.assert_array_equal(a, b, name)


@pytest.fixture(scope="module", params=MODELS)
def known(request):
    """A model, real frames, and the golden backend's answers to them."""
    model = load_model(request.param)
    golden = open_backend("golden", BackendSettings())
    golden.load(model)
    images = list(street_frames(model, spread(FRAMES)))
    answers = [[tensor.copy() for tensor in heads(golden.infer(image))] for image in images]
    return model, images, answers


@pytest.mark.timeout(3600)
def test_heads_and_detections_are_the_golden_models(known, macs):
    model, images, answers = known
    backend = opened(model)
    decoder, outputs = model.decoder(DecodeSettings()), model.outputs
    names, levels, objects = [*outputs.box, *outputs.classes], len(outputs.box), 0
    cycles = []
    for image, wanted in zip(images, answers, strict=True):
        found = backend.infer(image)
        check(found, wanted, names)
        ours = decoder.decode(found.boxes, found.classes)
        theirs = decoder.decode(wanted[:levels], wanted[levels:])
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        objects += len(ours)
        cycles.append(found.engine.cycles)
    assert objects, "the frames show no object"
    # The content of a picture does not change the time, except for when the memory answers.
    assert max(cycles) - min(cycles) <= 0.001 * min(cycles)
    told = backend.driver.program.cycles
    assert abs(told - cycles[0]) <= MODEL_ERROR * cycles[0], (told, cycles[0])
    latency_ms = found.engine.latency_ms
    assert found.engine.simulated
    assert sum(waited for _, waited in found.engine.stalls) < found.engine.cycles
    reads = sum(layer.bytes_read for layer in backend.info.layers)
    descriptors = 64 * backend.driver.program.descriptors
    assert abs(found.engine.bytes_read - reads - descriptors) <= 0.001 * reads
    assert found.engine.bytes_written == sum(layer.bytes_written for layer in backend.info.layers)
    assert bus(backend).violations() == ""
    print(f"{model.name} on {macs} MACs: {cycles[0]} cycles, {told} told, {latency_ms:.3f} ms")
    backend.close()


@fewer_builds
@pytest.mark.parametrize("known", MODELS if FRAMES > 1 else [SMALL], indirect=True)
@pytest.mark.timeout(600)
def test_a_slow_and_fitful_memory_changes_nothing_but_the_time(known, macs):
    model, images, answers = known
    backend = opened(model)
    names = [*model.outputs.box, *model.outputs.classes]
    quick = backend.infer(images[0]).engine.cycles
    for seed, (latency, percent) in enumerate([((1, 200), 0), ((1, 1), 40), ((1, 200), 60)]):
        bus(backend).set_latency(*latency, seed)
        bus(backend).set_backpressure(percent, seed)
        found = backend.infer(images[-1])
        check(found, answers[-1], names)
        if percent:
            assert found.engine.cycles > quick
    assert bus(backend).violations() == ""
    backend.close()


@fewer_builds
@pytest.mark.parametrize("known", MODELS if FRAMES > 1 else [SMALL], indirect=True)
@pytest.mark.timeout(600)
def test_bursts_hide_the_distance_of_the_memory(known, macs):
    """With 8 bursts of each direction on their way, as many as the wrapper declares."""
    model, images, answers = known
    backend = opened(model)
    cycles = {}
    for latency in (32, 100, 200):
        bus(backend).set_latency(latency, latency)
        found = backend.infer(images[0])
        check(found, answers[0], [*model.outputs.box, *model.outputs.classes])
        cycles[latency] = found.engine.cycles
    assert cycles[100] <= 1.01 * cycles[32]
    assert cycles[200] <= 1.15 * cycles[32]
    print(f"{model.name} on {macs} MACs, cycles by the latency of the memory: {cycles}")
    backend.close()


@fewer_builds
@pytest.mark.parametrize("known", [SMALL], indirect=True)
@pytest.mark.timeout(600)
class TestFaults:
    @pytest.fixture
    def loaded(self, known, macs):
        model, images, answers = known
        backend = opened(model)
        yield backend, images[0], answers[0], [*model.outputs.box, *model.outputs.classes]
        backend.close()

    @pytest.mark.parametrize(("response", "word"), [(2, "READ"), (3, "READ")])
    def test_a_read_that_fails_is_told_and_the_next_frame_is_right(self, loaded, response, word):
        backend, image, wanted, names = loaded
        content = backend.driver.program.content
        bus(backend).set_fault(len(content) - 4096, len(content), response)  # last weights
        with pytest.raises(BackendError, match=f"reports {word}.*it was reset"):
            backend.infer(image)
        bus(backend).set_fault(0, 0, 0)
        check(backend.infer(image), wanted, names)

    def test_a_write_that_fails_is_told_and_the_next_frame_is_right(self, loaded):
        backend, image, wanted, names = loaded
        begin = backend.driver.slots[0].output.address
        bus(backend).set_fault(begin, begin + 1024, 2)
        with pytest.raises(BackendError, match="reports WRITE"):
            backend.infer(image)
        bus(backend).set_fault(0, 0, 0)
        check(backend.infer(image), wanted, names)

    def test_a_bus_that_hangs_is_told_until_the_machine_is_restarted(self, loaded):
        backend, image, wanted, names = loaded
        begin = backend.driver.slots[0].image.address
        bus(backend).set_fault(begin + 8192, begin + 16384, -1)
        with pytest.raises(BackendError, match="reports TIMEOUT.*restart the machine"):
            backend.infer(image)
        with pytest.raises(BackendError, match="is busy; it does not stop"):
            backend.infer(image)
        bus(backend).set_fault(0, 0, 0)
        bus(backend).reset()
        check(backend.infer(image), wanted, names)

    def test_a_frame_that_does_not_end_is_abandoned(self, loaded, monkeypatch):
        backend, image, wanted, names = loaded
        with monkeypatch.context() as patched:
            patched.setattr(backend.driver, "limit_us", 200)
            with pytest.raises(BackendError, match="did not finish a frame within 0.2 ms"):
                backend.infer(image)
        check(backend.infer(image), wanted, names)

    def test_a_descriptor_that_is_spoilt_is_told_by_its_layer(self, loaded):
        backend, image, wanted, names = loaded
        content = backend.driver._content.array
        whole = content[64 * 5 + 1]
        content[64 * 5 + 1] = 77  # its version
        with pytest.raises(BackendError, match=r"reports VERSION.* at descriptor 5 \(/model\."):
            backend.infer(image)
        content[64 * 5 + 1] = whole
        check(backend.infer(image), wanted, names)
        assert backend.driver.bus.read(Register.STATUS) == 0


@fewer_builds
@pytest.mark.timeout(600)
def test_replay_says_that_the_time_is_simulated(root, macs, tmp_path, monkeypatch):
    sample = root / "bags/sample"
    if not (sample / "metadata.yaml").is_file():
        pytest.skip("the sample drive is not made (make sample)")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ["replay", str(sample), "--model", "open-xs", "--every", "80"]
    shas = []
    for name in ("golden", "fpga"):
        out = str(tmp_path / name)
        result = CliRunner().invoke(app, [*arguments, "--backend", name, "--out", out, "--json"])
        assert result.exit_code == 0, result.output
        shas.append(json.loads(result.stdout)["detections_sha256"])
    assert shas[0] == shas[1]
    engine = json.loads(result.stdout)["engine"]
    assert engine["simulated"]
    assert engine["frames"] == 4
    assert "simulated: no hardware has run" in (tmp_path / "fpga/report.html").read_text()


@pytest.mark.timeout(3600)
def test_a_plain_network_is_computed_bit_for_bit(macs, root):
    size = (640, 384) if FRAMES > 1 else (160, 96)
    network = PlainNetwork(*size).network
    engine = SimulatedEngine(root / f"build/fpga/libengine_{macs}.so")
    driver = EngineDriver(engine)
    driver.load(compile_network(network, driver.geometry))
    image = np.random.default_rng(3).integers(0, 256, (*size[::-1], 3), np.uint8)
    call = computed(driver, network, image)
    told = driver.program.cycles
    if FRAMES > 1:  # in small pictures weights take longer than the model thinks
        assert abs(told - call.cycles) <= MODEL_ERROR * call.cycles
    assert engine.violations() == ""
    print(f"plain {size[0]}x{size[1]} on {macs} MACs: {call.cycles} cycles, {told} told")
    engine.close()


def computed(driver, network, image):
    """Run the loaded program on an image, compare its outputs; what the engine counted."""
    (slot,) = driver.slots
    driver.put(slot, image)
    driver.start(slot)
    call = driver.finish()
    tensors = network.trace(image)
    for output in driver.program.outputs:
        np.testing.assert_array_equal(output.fixed(slot.output.array), tensors[output.name])
    return call


@pytest.mark.timeout(3600)
def test_random_networks_are_computed_bit_for_bit(macs, root):
    engine = SimulatedEngine(root / f"build/fpga/libengine_{macs}.so")

    @given(networks())
    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    def check_network(case):
        network, image = case
        driver = EngineDriver(engine)
        driver.load(compile_network(network, driver.geometry))
        computed(driver, network, image)
        driver.unload()

    check_network()
    assert engine.violations() == ""
    engine.close()

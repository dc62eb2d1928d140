"""The engine's registers: errors of descriptors and of the bus, resets, counters."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_bench import IMAGES, IRQ, OUTPUTS, PROGRAM, RESET, START, Bench, copy_of
from layer_cases import codes

from perception_nodes.fpga import layout
from perception_nodes.fpga.layout import CONVOLVE_FIELDS, STATUS_FIELDS, Cause, Register

pytestmark = pytest.mark.timeout(1200)
PATIENCE = 200_000


def status(simulation):
    word = simulation.read(Register.STATUS)
    return {name: word >> f.low & (1 << f.bits) - 1 for name, f in STATUS_FIELDS.items()}


def example(simulation, seed=0, groups=3):
    """A bench with some layers, and its expected results."""
    rng = np.random.default_rng(seed)
    wanted = codes(rng, (16 * groups, 6, 11), "any")
    bench = Bench(simulation)
    bench.get(bench.put(wanted))
    return bench, wanted


def check_good(simulation):
    """Check that the engine works: a frame is right, whatever happened before."""
    bench, wanted = example(simulation, seed=1)
    np.testing.assert_array_equal(bench.run(PATIENCE)[0], wanted)


def failure(simulation, bench, limit=PATIENCE, **registers):
    """Run a bench that fails; returns cause and index after the engine has stopped."""
    bench.place()
    for name, value in registers.items():
        simulation.write(Register[name], value)
    bench.start()
    assert simulation.run_until_irq(limit), "the engine hangs"
    found = status(simulation)
    assert found["error"] and not found["done"]
    at_rest(simulation)
    assert simulation.violations() == ""
    simulation.write(Register.STATUS, 1 << STATUS_FIELDS["error"].low)
    assert status(simulation) == dict.fromkeys(STATUS_FIELDS, 0)
    return Cause(found["cause"]), found["index"]


def at_rest(simulation):
    """Wait until no transaction is open."""
    for _ in range(2000):
        if not status(simulation)["busy"]:
            return
    raise AssertionError("the bus is not brought to rest")


def test_identity(simulation):
    assert simulation.read(Register.ID) == layout.ID
    assert simulation.read(Register.VERSION) == layout.VERSION
    geometry = simulation.read(Register.GEOMETRY)
    assert geometry & 0xFF in (2, 4)
    assert geometry >> 8 & 0xFFFF == 256
    assert geometry >> 24 == 125
    assert simulation.read(Register.ROWS) == 28672
    assert simulation.read(0x64) == 0


def test_registers_keep_what_is_written(simulation):
    kept = {
        Register.DESCRIPTORS_LOW: 0xFFFFFFFF,
        Register.DESCRIPTORS_HIGH: 0xFF,
        Register.COUNT: 0xFFFF,
        Register.TIMEOUT: 0xFFFFFFFF,
        Register.IMAGE_LOW: 0xFFFFFFFF,
        Register.IMAGE_HIGH: 0xFF,
        Register.OUTPUT_LOW: 0xFFFFFFFF,
        Register.OUTPUT_HIGH: 0xFF,
    }
    before = {register: simulation.read(register) for register in kept}
    for value in (0xFFFFFFFF, 0x12345678, 0):
        for register in kept:
            simulation.write(register, value)
        for register, mask in kept.items():
            assert simulation.read(register) == value & mask
    for register in (Register.ID, Register.CYCLES, Register.ROWS, Register.GEOMETRY):
        value = simulation.read(register)
        simulation.write(register, ~value & 0xFFFFFFFF)
        assert simulation.read(register) == value
    for register, value in before.items():
        simulation.write(register, value)


WRONG = {
    "an unknown version": (dict(version=layout.VERSION + 1), Cause.VERSION),
    "opcode 0": (dict(opcode=0), Cause.OPCODE),
    "an unknown opcode": (dict(opcode=77), Cause.OPCODE),
    "no width": (dict(width=0), Cause.SIZE),
    "no height": (dict(height=0), Cause.SIZE),
    "too wide": (dict(width=4096), Cause.SIZE),
    "too high": (dict(height=4096), Cause.SIZE),
    "no source width": (dict(source_width=0), Cause.SIZE),
    "no source height": (dict(source_height=0), Cause.SIZE),
    "source too wide": (dict(source_width=5000), Cause.SIZE),
    "source too high": (dict(source_height=65535), Cause.SIZE),
    "no kernel height": (dict(kernel_height=0), Cause.SIZE),
    "no kernel width": (dict(kernel_width=0), Cause.SIZE),
    "stride 0": (dict(stride=0), Cause.SIZE),
    "stride 3": (dict(stride=3), Cause.SIZE),
    "a small tile": (dict(tile=7), Cause.SIZE),
    "a large tile": (dict(tile=257), Cause.SIZE),
    "no groups": (dict(groups=0), Cause.SIZE),
    "too many groups": (dict(groups=256), Cause.SIZE),
    "no source groups": (dict(source0_groups=0), Cause.SIZE),
    "too many source groups": (dict(source0_groups=256), Cause.SIZE),
    "too many groups in segment 1": (dict(source1_groups=256), Cause.SIZE),
    "a large pixel stride": (dict(source0_pixel_stride=512), Cause.SIZE),
    "a large pixel stride in segment 1": (
        dict(source1_groups=1, source1_pixel_stride=512),
        Cause.SIZE,
    ),
    "odd groups where wide": (dict(narrow=0, groups=3), Cause.GEOMETRY),
    "three beats": (dict(beats=3), Cause.GEOMETRY),
    "no beats": (dict(beats=0), Cause.GEOMETRY),
    "few beats of several groups": (dict(beats=2), Cause.GEOMETRY),
    "a pixel stride between beats": (dict(target_pixel_stride=13), Cause.GEOMETRY),
    "a line stride between beats": (dict(target_line_stride=133), Cause.GEOMETRY),
    "a source outside": (dict(source0_base=28671), Cause.ADDRESS),
    "a source that ends outside": (dict(source0_line_stride=28672 // 5 + 1), Cause.ADDRESS),
    "a segment 1 outside": (dict(source1_groups=1, source1_base=65535), Cause.ADDRESS),
    "a residual outside": (dict(residual=1, residual_base=28672), Cause.ADDRESS),
    "a target outside": (dict(external=0, target_base=28600), Cause.ADDRESS),
    "weights between beats": (dict(weights_offset=8), Cause.ALIGNMENT),
    "parameters between beats": (dict(parameters_offset=4), Cause.ALIGNMENT),
    "an output between bursts": (dict(output_offset=16), Cause.ALIGNMENT),
    "weights where no memory is": (dict(weights_offset=0x7FFF_FF00), Cause.READ),
    "parameters where no memory is": (dict(parameters_offset=0x7FFF_FF00), Cause.READ),
    "an output where no memory is": (dict(output_offset=0x7FFF_FF00), Cause.WRITE),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_descriptor_is_told(simulation, fault):
    changes, cause = WRONG[fault]
    bench, _ = example(simulation)
    bench.descriptors[-1] |= changes
    last = len(bench.descriptors) - 1
    found, index = failure(simulation, bench)
    assert found == cause
    assert index == last
    check_good(simulation)


LOADS = {
    "no width": (dict(width=0), Cause.SIZE),
    "no height": (dict(height=0), Cause.SIZE),
    "too wide": (dict(width=4096), Cause.SIZE),
    "too high": (dict(height=4096), Cause.SIZE),
    "a width of no fold": (dict(width=12), Cause.GEOMETRY),
    "an odd height of a fold": (dict(height=3), Cause.GEOMETRY),
    "a width of no quads": (dict(fold=0, width=10), Cause.GEOMETRY),
    "between beats": (dict(source_offset=4), Cause.ALIGNMENT),
    "a target outside": (dict(target_base=28672), Cause.ADDRESS),
    "no memory": (dict(source_offset=0x7FFF_FF00), Cause.READ),
}


@pytest.mark.parametrize("fault", LOADS)
def test_a_wrong_load_is_told(simulation, fault):
    changes, cause = LOADS[fault]
    bench, _ = example(simulation)
    bench.descriptors[0] |= changes
    assert failure(simulation, bench)[0] == cause
    check_good(simulation)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_descriptor_hangs_the_engine(simulation, data):
    """With random fields a frame ends with a result or an error, unless it is just very long."""
    bench, _ = example(simulation, groups=1)
    names = data.draw(st.lists(st.sampled_from(sorted(CONVOLVE_FIELDS)), min_size=1, max_size=4))
    for name in names:
        limit = (1 << CONVOLVE_FIELDS[name].bits) - 1
        bench.descriptors[-1][name] = data.draw(
            st.one_of(st.integers(0, min(limit, 40)), st.integers(0, min(limit, 1 << 30)))
        )
    bench.place()
    bench.start()
    if not simulation.run_until_irq(PATIENCE):
        simulation.write(Register.CONTROL, RESET | IRQ)
    at_rest(simulation)
    assert simulation.violations() == ""
    check_good(simulation)


@pytest.mark.parametrize(
    "registers",
    [dict(DESCRIPTORS_LOW=PROGRAM + 16), dict(IMAGE_LOW=IMAGES + 8), dict(OUTPUT_LOW=OUTPUTS + 16)],
)
def test_addresses_between_bursts_are_told(simulation, registers):
    bench, _ = example(simulation)
    assert failure(simulation, bench, **registers) == (Cause.ALIGNMENT, 0)
    check_good(simulation)


def test_no_descriptors_are_told(simulation):
    bench, _ = example(simulation)
    assert failure(simulation, bench, COUNT=0) == (Cause.EMPTY, 0)
    check_good(simulation)


def at(bench, name):
    """Address of something that the last descriptor uses."""
    entry, behind = bench.descriptors[-1], 64 * len(bench.descriptors)
    return {
        "descriptors": PROGRAM + behind - 64,
        "weights": PROGRAM + behind + entry["weights_offset"],
        "parameters": PROGRAM + behind + entry["parameters_offset"],
        "image": IMAGES,
        "outputs": OUTPUTS,
    }[name]


PLACES = ["descriptors", "weights", "parameters", "image", "outputs"]


@pytest.mark.parametrize("response", [2, 3])
@pytest.mark.parametrize("beat", [0, 3])
@pytest.mark.parametrize("place", PLACES)
def test_an_answer_of_the_bus_that_is_an_error_is_told(simulation, place, beat, response):
    """One beat of a burst is answered so, the others with OKAY."""
    bench, _ = example(simulation)
    begin = at(bench, place) + 16 * beat
    simulation.set_fault(begin, begin + 16, response)
    simulation.set_latency(1, 100, 7)
    try:
        cause, _ = failure(simulation, bench)
    finally:
        simulation.set_fault(0, 0, 0)
        simulation.set_latency(32, 32)
    assert cause == (Cause.WRITE if place == "outputs" else Cause.READ)
    check_good(simulation)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("limit", [300, 70_000])
def test_a_bus_that_hangs_is_told(simulation, place, limit):
    bench, _ = example(simulation)
    begin = at(bench, place)
    simulation.write(Register.TIMEOUT, limit)
    simulation.set_fault(begin, begin + 16, -1)
    try:
        bench.place()
        bench.start()
        assert simulation.run_until_irq(limit + 20_000)
        found = status(simulation)
        assert found["error"] and found["cause"] == Cause.TIMEOUT
        assert found["busy"], "transactions are open"
        simulation.write(Register.CONTROL, RESET | IRQ)
        assert status(simulation)["busy"], "a bus that hangs cannot be brought to rest"
        simulation.reset()
        assert status(simulation) == dict.fromkeys(STATUS_FIELDS, 0)
    finally:
        simulation.set_fault(0, 0, 0)
    assert simulation.read(Register.TIMEOUT) == 65536
    check_good(simulation)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cycles=st.integers(0, 9_000), hard=st.booleans(), percent=st.sampled_from([0, 0, 50]))
def test_a_reset_in_the_middle_of_a_frame(simulation, cycles, hard, percent):
    bench, wanted = example(simulation)
    simulation.set_backpressure(percent, cycles)
    try:
        bench.place()
        bench.start()
        simulation.run_until_irq(cycles)
        if hard:
            simulation.reset()
        else:
            simulation.write(Register.CONTROL, RESET | IRQ)
            at_rest(simulation)
            assert status(simulation) == dict.fromkeys(STATUS_FIELDS, 0)
        assert simulation.violations() == ""
        np.testing.assert_array_equal(bench.run(PATIENCE)[0], wanted)
    finally:
        simulation.set_backpressure(0)


def test_a_start_while_busy_is_ignored(simulation):
    bench, wanted = example(simulation)
    bench.place()
    bench.start()
    simulation.run_until_irq(500)
    bench.start()
    assert simulation.run_until_irq(PATIENCE)
    np.testing.assert_array_equal(bench.results()[0], wanted)
    simulation.write(Register.STATUS, 2)


def test_the_interrupt_is_as_enabled(simulation):
    bench, _ = example(simulation)
    bench.place()
    simulation.write(Register.CONTROL, START)
    assert not simulation.run_until_irq(20_000)
    assert status(simulation)["done"]
    simulation.write(Register.CONTROL, IRQ)
    assert simulation.run_until_irq(10)
    assert simulation.read(Register.CONTROL) == IRQ
    simulation.write(Register.STATUS, 1 << STATUS_FIELDS["done"].low)
    assert not simulation.run_until_irq(10)


def test_counters_add_up(simulation):
    """Every cycle of a frame is counted exactly once."""
    bench, _ = example(simulation)
    bench.run()
    read = simulation.read
    causes = [register for name, register in Register.__members__.items() if "STALL" in name]
    cycles = read(Register.CYCLES)
    assert read(Register.MAC_CYCLES) + sum(map(read, causes)) == cycles
    assert cycles > read(Register.MAC_CYCLES) > 0
    images = sum(map(len, bench.images))
    assert read(Register.WRITE_BYTES) == bench.output_bytes // 64 * 64
    assert read(Register.READ_BYTES) == len(bench.program()) + images
    bench.run()
    assert read(Register.CYCLES) == cycles, "the counters restart"


@pytest.mark.parametrize(
    ("register", "cause"),
    [("DESCRIPTORS_HIGH", Cause.READ), ("IMAGE_HIGH", Cause.READ), ("OUTPUT_HIGH", Cause.WRITE)],
)
def test_addresses_beyond_32_bits(simulation, register, cause):
    """There is no memory at these addresses, so DECERR shows that they are accessed."""
    bench, _ = example(simulation)
    assert failure(simulation, bench, **{register: 1})[0] == cause
    check_good(simulation)


def test_weights_anywhere(simulation):
    """Transfers across boundaries of bursts and pages, at every offset within them."""
    rng = np.random.default_rng(5)
    wanted = codes(rng, (32, 3, 5), "any")
    for shift in range(0, 256, 48):
        bench = Bench(simulation)
        bench.payload.append(bytes(4096 - 512 + shift))
        bench.get(bench.put(wanted))
        np.testing.assert_array_equal(bench.run(PATIENCE)[0], wanted)


def test_a_copy_is_a_copy():
    """The bench's own tools, without an engine."""
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16)
    identity = copy_of(np.ones((1, 1, 1, 1), np.int16))
    np.testing.assert_array_equal(identity.run({"source": every}), every)
    identity = copy_of(np.ones((1, 1, 1, 1), np.int16), stored=False)
    np.testing.assert_array_equal(identity.run({"source": every}), every)

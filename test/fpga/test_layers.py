"""Single layers on the simulated engine, bit for bit as the integer network computes them.

FPGA_EXAMPLES in the environment, which `make fpga-test` sets, takes more of them.
"""

import os
from dataclasses import replace

import layer_bench
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_bench import Bench, copy_of
from layer_cases import Case, cases, codes

from perception_nodes.backends.qdq import read_network
from perception_nodes.core.integer import Concat, Convolution, Store, Upsample
from perception_nodes.fpga import simulated
from perception_nodes.fpga.simulated import SimulatedEngine

EXAMPLES = int(os.environ.get("FPGA_EXAMPLES", "10"))
pytestmark = pytest.mark.timeout(3600)
repeatedly = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


def put(bench, case):
    """Load what a layer reads into memory; `convolve` runs it."""
    segments = [bench.put(segment) for segment in case.segments]
    residual = None if case.residual is None else bench.put(case.residual)
    return segments, residual


def convolve(bench, case, placed, wait=True):
    """Run a layer; returns the index of its result among those of the bench."""
    segments, residual = placed
    how = dict(upsample=case.upsample, narrow=case.narrow, tile=case.tile, wait=wait)
    if case.layer.store is None:
        return bench.convolve(case.layer, segments, **how)
    channels, height, width = case.wanted().shape
    target = bench.tensor(channels // 16, height, width)
    return bench.convolve(case.layer, segments, target=target, residual=residual, **how)


def result(bench, case):
    """The layer's result on the engine."""
    place = convolve(bench, case, put(bench, case))
    if case.layer.store is not None:
        place = bench.get(place)
    return bench.run()[place]


@repeatedly
@given(case=cases())
def test_any_layer(simulation, case):
    np.testing.assert_array_equal(result(Bench(simulation), case), case.wanted())


@repeatedly
@given(
    case=cases(most_groups=4),
    percent=st.integers(0, 90),
    latency=st.integers(1, 200),
    spread=st.booleans(),
    outstanding=st.sampled_from([1, 2, 8, 64]),
    seed=st.integers(0, 2**32),
)
def test_any_layer_on_a_fitful_bus(simulation, case, percent, latency, spread, outstanding, seed):
    simulation.set_latency(1 if spread else latency, latency, seed)
    simulation.set_backpressure(percent, seed)
    simulation.set_outstanding(outstanding)
    try:
        np.testing.assert_array_equal(result(Bench(simulation), case), case.wanted())
    finally:
        simulation.set_latency(32, 32, 0)
        simulation.set_backpressure(0, 0)
        simulation.set_outstanding(8)


@repeatedly
@given(several=st.lists(cases(most_groups=3, most_pixels=150), min_size=2, max_size=5))
def test_layers_that_do_not_wait_for_each_other(simulation, several):
    bench = Bench(simulation)
    placed = [put(bench, case) for case in several]
    places = [
        convolve(bench, case, where, wait=i == 0)
        for i, (case, where) in enumerate(zip(several, placed, strict=True))
    ]
    places = [
        place if case.layer.store is None else bench.get(place)
        for case, place in zip(several, places, strict=True)
    ]
    found = bench.run()
    for case, place in zip(several, places, strict=True):
        np.testing.assert_array_equal(found[place], case.wanted())


@repeatedly
@given(case=cases(most_groups=2, most_pixels=100), depth=st.integers(2, 5))
def test_layers_that_read_what_was_written_just_before(simulation, case, depth):
    """The shortest layers, whose results are read as soon as they are written."""
    layer, channels = case.layer, case.segments[0].shape[0]
    weight = np.resize(layer.weight, (channels, channels, *layer.weight.shape[2:]))
    square = replace(
        layer,
        weight=weight,
        bias=np.resize(np.clip(layer.bias, -(10**6), 10**6), channels),
        multiplier=np.resize(layer.multiplier, channels),
        stride=1,
        pads=(0, 0, *[k - 1 for k in weight.shape[2:]]),
        store=replace(case.layer.store, residual="", residual_multiplier=0)
        if case.layer.store
        else None,
    )
    if square.store is None:
        return
    bench = Bench(simulation)
    tensor, wanted = bench.put(case.segments[0]), case.segments[0]
    for _ in range(depth):
        target = bench.tensor(channels // 16, *wanted.shape[1:])
        bench.convolve(square, [tensor], target=target, tile=case.tile)
        tensor, wanted = target, square.run({"source": wanted})
    place = bench.get(tensor)
    np.testing.assert_array_equal(bench.run()[place], wanted)


@pytest.mark.parametrize(("channels", "beats"), [(1, 1), (4, 1), (7, 2), (8, 2), (16, 4)])
def test_outputs_of_few_channels(simulation, channels, beats):
    rng = np.random.default_rng(channels)
    source = codes(rng, (16, 5, 7), "any")
    layer = Convolution(
        name="layer",
        source="source",
        target="target",
        weight=rng.integers(-128, 128, (channels, 16, 1, 1), dtype=np.int16),
        bias=np.zeros(channels, np.int32),
        stride=1,
        pads=(0, 0, 0, 0),
        outside=0,
        multiplier=np.full(channels, 1 << 16, np.int32),
        shift=16,
        fraction=0,
        activation="none",
        store=None,
    )
    bench = Bench(simulation)
    place = bench.convolve(layer, [bench.put(source)], beats=beats)
    np.testing.assert_array_equal(bench.run()[place], layer.run({"source": source}))


@pytest.mark.parametrize("narrow", [False, True])
def test_more_output_groups_than_the_engine_keeps_parameters_of(simulation, narrow):
    rng = np.random.default_rng(3)
    source = codes(rng, (16, 3, 5), "any")
    weight = rng.integers(-128, 128, (16 * 48, 16, 1, 1), dtype=np.int16)
    layer = replace(copy_of(weight, stored=False), bias=rng.integers(-999, 999, len(weight)))
    bench = Bench(simulation)
    place = bench.convolve(layer, [bench.put(source)], narrow=narrow, tile=8)
    np.testing.assert_array_equal(bench.run()[place], layer.run({"source": source}))


@pytest.mark.parametrize(("layers", "groups"), [(1, 48), (24, 1)])
def test_little_is_read_for_much_work(simulation, layers, groups):
    """What is read ahead fills the memory of parameters, or the queue of descriptors."""
    rng = np.random.default_rng(4)
    source = codes(rng, (16, 64, 64), "any")
    bench = Bench(simulation)
    placed, wanted = bench.put(source), []
    for _ in range(layers):
        weight = rng.integers(-128, 128, (16 * groups, 16, 1, 1), dtype=np.int16)
        layer = replace(copy_of(weight, stored=False), bias=rng.integers(-999, 999, len(weight)))
        place = bench.convolve(layer, [placed], narrow=True, tile=256, wait=not wanted)
        wanted.append((place, layer.run({"source": source})))
    found = bench.run()
    for place, values in wanted:
        np.testing.assert_array_equal(found[place], values)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("size", [(2, 8), (4, 16), (6, 40), (16, 104)])
def test_images(simulation, fold, size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels = image.astype(np.int32) - 128
    if fold:
        height, width = size[0] // 2, size[1] // 2
        pixels = pixels.reshape(height, 2, width, 2, 3).transpose(0, 2, 1, 3, 4)
        pixels = pixels.reshape(height, width, 12)
    wanted = np.zeros((16, *pixels.shape[:2]), np.int32)
    wanted[: pixels.shape[2]] = pixels.transpose(2, 0, 1)
    bench = Bench(simulation)
    place = bench.get(bench.load(image, fold))
    np.testing.assert_array_equal(bench.run()[place], wanted)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rest", [1, 2, 3, 4])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_short_tile_behind_a_long_one(simulation, groups, rest, narrow):
    """Its first step follows the long one's last step at once."""
    bench = Bench(simulation)
    pixels = bench.blocks if narrow else bench.blocks // 2
    rng = np.random.default_rng(rest)
    source = codes(rng, (16 * groups, 1, pixels * (64 + rest)), "any")
    weight = rng.integers(-128, 128, (64, 16 * groups, 1, 1), dtype=np.int16)
    layer = copy_of(weight, stored=False)
    place = bench.convolve(layer, [bench.put(source)], narrow=narrow, tile=64)
    np.testing.assert_array_equal(bench.run()[place], layer.run({"source": source}))


def plain(weight, **changes):
    """A layer whose results leave the engine, scaled into 18 bits."""
    shift = 16 + max(int(np.abs(weight).sum(axis=(1, 2, 3)).max()).bit_length() + 7 - 17, 0)
    return replace(copy_of(weight, stored=False), shift=shift, **changes)


def check_layer(simulation, layer, source, **how):
    """Compare a layer, whose source is put into memory, with the integer network."""
    bench = Bench(simulation)
    place = bench.convolve(layer, [bench.put(source)], **how)
    np.testing.assert_array_equal(bench.run()[place], layer.run({"source": source}))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [(15, 15), (1, 15), (15, 1)])
def test_the_largest_kernels(simulation, kernel, stride):
    rng = np.random.default_rng(7)
    weight = rng.integers(-128, 128, (32, 16, *kernel), dtype=np.int16)
    pads = (kernel[0] - 1, kernel[1] - 1, 7, 7)
    source = codes(rng, (16, 9, 13), "any")
    check_layer(simulation, plain(weight, pads=pads, stride=stride, outside=-128), source)


@pytest.mark.parametrize("groups", [(255, 1), (1, 255)])
def test_the_most_groups(simulation, groups):
    rng = np.random.default_rng(8)
    weight = rng.integers(-128, 128, (16 * groups[1], 16 * groups[0], 1, 1), dtype=np.int16)
    check_layer(simulation, plain(weight), codes(rng, (16 * groups[0], 1, 5), "any"), tile=8)


@pytest.mark.parametrize("axis", [1, 2])
def test_the_largest_pictures(simulation, axis):
    """4,095 pixels in a direction: twice 2,044 and 7 beyond the edges; they are then read."""
    rng = np.random.default_rng(9)
    size, kernel = ((2044, 1), (2, 1)) if axis == 1 else ((1, 2044), (1, 2))
    weight = rng.integers(-2, 3, (16, 16, *kernel), dtype=np.int16)
    first = replace(copy_of(weight), pads=(4, 0, 4, 0) if axis == 1 else (0, 4, 0, 4))
    source = codes(rng, (16, *size), "any")
    bench = Bench(simulation)
    doubled = source.repeat(2, axis=1).repeat(2, axis=2)
    wanted = first.run({"source": doubled})
    assert wanted.shape[axis] == 4095
    target = bench.tensor(1, *wanted.shape[1:])
    bench.convolve(first, [bench.put(source)], target=target, upsample=(True, False), tile=256)
    place = bench.get(target)
    np.testing.assert_array_equal(bench.run()[place], wanted)


def test_the_largest_pixel_stride(simulation):
    rng = np.random.default_rng(10)
    source = codes(rng, (16, 4, 23), "any")
    bench = Bench(simulation)
    apart = replace(bench.tensor(511, 4, 23), groups=1)
    identity = copy_of(np.eye(16, dtype=np.int16)[:, :, None, None])
    bench.convolve(identity, [bench.put(source)], target=apart)
    place = bench.get(apart)
    np.testing.assert_array_equal(bench.run()[place], source)


def test_the_largest_rows_and_strides(simulation):
    rng = np.random.default_rng(15)
    bench = Bench(simulation)
    source, residual = (codes(rng, (16, 3, 9), "any") for _ in range(2))
    near = bench.put(source)
    added = replace(near, base=8192 + 479, pixel_stride=2000, line_stride=8000)
    target = replace(near, base=8192, pixel_stride=511, line_stride=8000)
    identity = copy_of(np.eye(16, dtype=np.int16)[:, :, None, None])
    bench.convolve(identity, [near], target=target)
    moved = replace(near, base=8192 + 1, pixel_stride=511, line_stride=8000)
    layer = copy_of(rng.integers(-8, 9, (16, 16, 1, 1), dtype=np.int16))
    layer = replace(layer, store=Store(layer.store.multiplier, layer.store.shift, "residual", 8))
    bench.convolve(identity, [bench.put(residual)], target=added)
    bench.convolve(layer, [target], target=moved, residual=added)
    place = bench.get(moved)
    wanted = layer.run({"source": source, "residual": residual})
    np.testing.assert_array_equal(bench.run()[place], wanted)


def test_the_most_weights(simulation):
    """More than 65,536 beats for a word of output channels, read again for a second tile."""
    rng = np.random.default_rng(11)
    weight = rng.integers(-128, 128, (32, 160, 15, 15), dtype=np.int16)
    source = codes(rng, (160, 3, 5), "any")
    check_layer(simulation, plain(weight, pads=(7, 7, 7, 7)), source, narrow=False, tile=8)


def test_the_most_vectors(simulation):
    """More than 65,536, of which only the last line is kept: all lines lie on each other."""
    rng = np.random.default_rng(12)
    bench = Bench(simulation)
    source = codes(rng, (16, 65 * bench.blocks // 2, 256), "any")
    layer = copy_of(rng.integers(-8, 9, (32, 16, 1, 1), dtype=np.int16))
    target = bench.tensor(2, 1, 512)
    how = dict(upsample=(True, False), narrow=False, tile=255, target=target, target_line_stride=0)
    bench.convolve(layer, [bench.put(source)], **how)
    place = bench.get(target)
    wanted = layer.run({"source": source[:, -1:].repeat(2, axis=2)})
    np.testing.assert_array_equal(bench.run()[place], wanted)


def test_the_largest_image(simulation):
    """More than 65,536 beats; its ends are compared."""
    image = np.random.default_rng(13).integers(0, 256, (344, 1024, 3), dtype=np.uint8)
    bench = Bench(simulation)
    loaded = bench.load(image, fold=True)
    last = replace(loaded, base=loaded.base + 171 * loaded.line_stride, height=1)
    places = [bench.get(replace(loaded, height=1)), bench.get(last)]
    found = bench.run()
    for place, lines in zip(places, (image[:2], image[-2:]), strict=True):
        pixels = lines.reshape(1, 2, 512, 2, 3).transpose(1, 3, 4, 0, 2).reshape(12, 1, 512)
        np.testing.assert_array_equal(found[place][:12], pixels.astype(np.int32) - 128)
        assert not found[place][12:].any()


def test_addresses_that_cross_4_gib(library, monkeypatch):
    """Descriptors, weights, parameters, images and outputs lie on both sides of such a boundary."""
    monkeypatch.setattr(simulated, "MEMORY_BYTES", 13 << 30)  # of which little is touched
    engine = SimulatedEngine(library)
    rng = np.random.default_rng(14)
    source = codes(rng, (32, 5, 7), "any")
    weight = rng.integers(-128, 128, (64, 32, 3, 3), dtype=np.int16)
    layer = plain(weight, pads=(1, 1, 1, 1))
    bench = Bench(engine)
    place = bench.convolve(layer, [bench.put(source)])
    table, program = 64 * len(bench.descriptors), len(bench.program())
    images = sum(map(len, bench.images)) // 32 * 16
    try:
        for share in (0, 0.5 * table, table, 0.5 * program, 0.9 * program, program):
            monkeypatch.setattr(layer_bench, "PROGRAM", (1 << 32) - int(share) // 64 * 64)
            monkeypatch.setattr(layer_bench, "IMAGES", (2 << 32) - images)
            monkeypatch.setattr(layer_bench, "OUTPUTS", (3 << 32) - bench.output_bytes // 128 * 64)
            np.testing.assert_array_equal(bench.run()[place], layer.run({"source": source}))
    finally:
        engine.close()


def layers_of(root, name):
    """Every convolution of a model, with random codes of the right sizes as its source.

    But for those that the compiler changes: depthwise ones, and those of half a block of channels.
    """
    network = read_network(root / f"models/{name}/{name}.u8.onnx")
    rng = np.random.default_rng(0)
    shapes = {network.image: (3, network.height, network.width)}
    parts = {}
    for layer in network.layers:
        if isinstance(layer, Upsample):
            channels, height, width = shapes[layer.source]
            shapes[layer.target] = (channels, 2 * height, 2 * width)
            parts[layer.target] = [(layer.source, True)]
        elif isinstance(layer, Concat):
            whole = [shapes[source] for source in layer.sources]
            shapes[layer.target] = (sum(shape[0] for shape in whole), *whole[0][1:])
            parts[layer.target] = [parts.get(s, [(s, False)])[0] for s in layer.sources]
        elif layer.source == network.image:
            out = layer.weight.shape[0]
            shapes[layer.target] = (out, network.height // 2, network.width // 2)
        else:
            found = parts.get(layer.source, [(layer.source, False)])
            if len(found) > 2 or (len(found) == 2 and not any(up for _, up in found)):
                found = [(layer.source, False)]  # lies in one piece
            segments = tuple(codes(rng, shapes[source], "any") for source, _ in found)
            _, height, width = shapes[layer.source]
            kernel, pads = layer.weight.shape[2:], layer.pads
            shapes[layer.target] = (
                len(layer.weight),
                (height + pads[0] + pads[2] - kernel[0]) // layer.stride + 1,
                (width + pads[1] + pads[3] - kernel[1]) // layer.stride + 1,
            )
            residual = None
            if layer.store and layer.store.residual:
                residual = codes(rng, shapes[layer.target], "any")
                layer = replace(layer, store=replace(layer.store, residual="residual"))
            if layer.depthwise or any(channels % 16 for channels in layer.weight.shape[:2]):
                continue
            yield Case(
                layer=replace(layer, source="source"),
                segments=segments,
                upsample=(found[0][1], found[-1][1] if len(found) > 1 else False),
                residual=residual,
                narrow=-(-len(layer.weight) // 16) % 2 == 1,
                tile=128,
            )


@pytest.mark.parametrize("model", ["open-n", "open-xs"])
def test_layers_of_the_shipped_models(simulation, root, model):
    checked = 0
    for case in layers_of(root, model):
        np.testing.assert_array_equal(
            result(Bench(simulation), case), case.wanted(), case.layer.name
        )
        checked += 1
    assert checked > 20

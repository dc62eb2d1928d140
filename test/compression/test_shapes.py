"""The search for shapes: against laws of time that are known, and by brute force."""

import json
from itertools import product

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the build tools: make compression")

from model_compression import shape_bench
from model_compression.config import Shape
from model_compression.latency import FEATURES, GMAC, features, fit, left_out_errors
from model_compression.model import count_gmac
from model_compression.plain import PlainNetwork
from model_compression.shape_bench import ShapeBench, most_work, result_tables, write_untrained
from model_compression.shapes import CLASSES, Candidate, Layer, space
from model_compression.targets import times_of
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.compiler import compile_network
from perception_nodes.fpga.program import Geometry
from perception_nodes.networks.model import load_model

LAW = np.array([0.3, 0.01, 4.0, 2.5, 1.5, 0.7, 0.05, 0.2])
"""Milliseconds for one of each feature."""
SMALL = Candidate(Shape(widths=(32, 32, 64, 96), depths=(1, 2, 1, 1), stem_kernel=6), 96, 64)


@pytest.fixture(scope="module")
def rows():
    """The features of some networks."""
    candidates = space(416, 256) + space(640, 384)
    chosen = np.random.default_rng(1).choice(len(candidates), 40, replace=False)
    return np.array([features(candidates[i].layers()) for i in chosen])


def quiet(*_):
    """Progress that nobody sees."""


def test_work_is_that_of_the_network_itself():
    shape = Shape(widths=(32, 64, 64, 128), depths=(2, 1, 3, 1), stem_kernel=8, neck=96, head=32)
    network = PlainNetwork(shape, "relu", CLASSES)
    one = Candidate(shape, 128, 96)
    assert one.gmac == pytest.approx(count_gmac(network, (128, 96)), rel=1e-12)
    count = sum(len(m.weight.shape) == 4 for m in network.modules() if hasattr(m, "in_channels"))
    assert len(list(one.layers())) == count


def test_features_of_a_layer():
    layers = [Layer(3, 32, 6, 6400, 400), Layer(64, 128, 3, 400, 100)]
    macs = 3 * 32 * 36 * 400, 64 * 128 * 9 * 100
    maps = 3 * 6400 + 32 * 400 + 64 * 400 + 128 * 100
    weights = 3 * 32 * 36 + 64 * 128 * 9
    wanted = [1, 2, macs[0] / 1e9, 0, macs[1] / 1e9, 0, maps / 1e6, weights / 1e6]
    assert features(layers) == pytest.approx(wanted)
    assert features(SMALL.layers())[GMAC].sum() == pytest.approx(SMALL.gmac)


def test_the_fit_finds_a_known_law(rows):
    times_ms = rows @ LAW
    assert fit(rows, times_ms) == pytest.approx(LAW, rel=1e-6)
    assert np.abs(left_out_errors(rows, times_ms)).max() < 1e-9


def test_left_out_errors_are_those_of_noise(rows):
    noise = np.random.default_rng(0).normal(1, 0.03, len(rows))
    assert 0.01 < np.median(np.abs(left_out_errors(rows, rows @ LAW * noise))) < 0.05
    # A network is not in the fit that predicts it: with a time all wrong, so is its error.
    times_ms = rows @ LAW
    times_ms[7] *= 10
    assert left_out_errors(rows, times_ms)[7] < -0.8


def test_more_work_never_takes_less_time(rows):
    law = LAW.copy()
    law[FEATURES.index("MB of maps")] = -0.01
    found = fit(rows, rows @ law)
    assert (found >= 0).all() and found[FEATURES.index("MB of maps")] == 0


@pytest.mark.parametrize("budget_ms", [3.0, 4.5, 6.0, 100.0])
def test_the_search_is_brute_force(budget_ms):
    candidates = [
        Candidate(Shape(widths=widths, depths=(*depths, 1, 1), stem_kernel=6), 416, 256)
        for widths in ((32, 32, 64, 96), (32, 64, 64, 96), (64, 64, 64, 128))
        for depths in product((1, 2, 3), repeat=2)
    ]
    times_ms = np.array([features(one.layers()) for one in candidates]) @ LAW
    gmac = np.array([one.gmac for one in candidates])
    best = {}
    for one, time_ms in zip(candidates, times_ms, strict=True):
        if time_ms <= budget_ms:
            widths = one.shape.widths
            best[widths] = max(best.get(widths, 0), one.gmac)
    wanted = sorted(best.values(), reverse=True)
    for count in (1, 3):
        found = most_work(candidates, gmac, times_ms, budget_ms, count)
        assert [candidates[i].gmac for i in found] == wanted[:count]
        assert all(times_ms[i] <= budget_ms for i in found)


def bench_with(monkeypatch, law_of, **changed):
    """A bench whose networks take what laws say, by target."""
    made = []
    monkeypatch.setattr(
        shape_bench, "write_untrained", lambda candidate, folder: made.append(candidate) or folder
    )

    def timed(folders, targets, *_):
        shown = made[len(made) - len(folders) :]
        return np.array([[law_of(target, one) for one in shown] for target in targets])

    monkeypatch.setattr(shape_bench, "times_of", timed)
    both = ["litert", "fpga:512"]
    settings = {"sizes": [(416, 256), (640, 384)], "budget_ms": 6.0, "networks": 40, "best": 2}
    return ShapeBench(both, **{**settings, **changed}, threads=1, rounds=3)


def test_a_bench_predicts_what_it_then_measures(monkeypatch):
    def law_of(target, one):
        return features(one.layers()) @ LAW * (1 if target == "litert" else 1.7)

    result = bench_with(monkeypatch, law_of).run(quiet)
    assert [one["target"] for one in result["fits"]] == ["litert", "fpga:512"]
    assert all(one["largest_error"] < 1e-6 for one in result["fits"])
    assert list(result["fits"][0]["ms_for_one"].values()) == pytest.approx(LAW, abs=1e-4)
    for one in result["found"]:
        assert one["predicted_ms"] == one["measured_ms"] <= 6
    for target, factor in (("litert", 1), ("fpga:512", 1.7)):
        affordable = [
            one.gmac
            for one in space(416, 256)
            if features(one.layers()) @ LAW * factor <= 6 * (1 + 1e-9)
        ]
        found = [o for o in result["found"] if (o["target"], o["width"]) == (target, 416)]
        assert found[0]["gmac"] == pytest.approx(max(affordable), abs=1e-3)
        assert len({o["widths"] for o in found}) == 2
    assert result_tables(result).renderables


def test_a_network_that_an_engine_cannot_hold(monkeypatch):
    def law_of(target, one):
        holds = target == "litert" or one.width == 416
        return features(one.layers()) @ LAW if holds else np.nan

    result = bench_with(monkeypatch, law_of).run(quiet)
    assert [one["networks"] for one in result["fits"]] == [40, 20]
    measured = {(o["target"], o["width"]): o["measured_ms"] for o in result["found"]}
    assert measured["fpga:512", 640] is None and measured["fpga:512", 416] is not None


def test_what_is_measured_above_the_budget_is_marked(monkeypatch):
    calls = []

    def law_of(target, one):
        """Twice as slow when it is checked."""
        calls.append(one)
        slower = 2 if len(calls) > 80 and target == "litert" else 1
        return features(one.layers()) @ LAW * slower

    result = bench_with(monkeypatch, law_of).run(quiet)
    cells = list(result_tables(result).renderables[1].columns[-1].cells)
    above = [one["measured_ms"] > 6 for one in result["found"]]
    assert [cell.endswith(" (above)") for cell in cells] == above
    assert set(above) == {True, False}


def test_an_engine_that_holds_too_few(monkeypatch):
    bench = bench_with(monkeypatch, lambda target, one: 5.0 if target == "litert" else np.nan)
    with pytest.raises(BackendError, match="fpga:512 holds 0 of the 40 networks.* smaller --sizes"):
        bench.run(quiet)


def test_a_budget_that_nothing_meets(monkeypatch):
    bench = bench_with(monkeypatch, lambda _, one: features(one.layers()) @ LAW, budget_ms=0.1)
    result = bench.run(quiet)
    assert result["found"] == [] and result_tables(result).renderables


def test_an_untrained_network_is_timed_on_every_target(tmp_path):
    folder = write_untrained(SMALL, tmp_path / "small")
    model = load_model(str(folder))
    found = times_of([folder, folder], ["litert", "openvino:AVX2", "fpga:512"], 1, 3, quiet)
    assert found.shape == (3, 2) and (found > 0).all()
    program = compile_network(read_network(model.path), Geometry(2, 64, 28672, 250.0))
    assert found[2] == pytest.approx(sum(layer.cycles for layer in program.layers) / 250e3)


def test_what_a_process_refuses_is_told(tmp_path):
    folder = write_untrained(SMALL, tmp_path / "small")
    (folder / "untrained.u8.onnx").write_bytes(b"")
    with pytest.raises(Exception, match="has sha256"):
        times_of([folder], ["litert"], 1, 3, quiet)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--sizes", "416x250"], "'416x250' is not of the form 416x256"),
        (["--sizes", "416x256,"], "'416x256,' is not of the form 416x256"),
        (["--sizes", "00x32"], "'00x32' is not of the form 416x256"),
        (["--best", "0"], "--best: 0 is not from 1 to 20"),
        (["--budget-ms", "nan"], "--budget-ms: nan is not from 0.1 to 1000"),
        (["--targets", "litert:AVX2"], "'litert:AVX2' is unknown; known are litert, openvino, "),
        (["--out", "/proc/none/x.json"], "--out /proc/none/x.json cannot be written"),
    ],
)
def test_the_command_refuses_what_cannot_be(arguments, text, capsys):
    try:
        status = shape_bench.main(arguments)
    except SystemExit as end:  # of the parser
        status = end.code
    assert status == 2
    assert text in " ".join(capsys.readouterr().err.split())


def test_the_command_writes_and_shows_what_it_finds(monkeypatch, tmp_path, capsys):
    bench_with(monkeypatch, lambda target, one: features(one.layers()) @ LAW)
    out = tmp_path / "shapes.json"
    arguments = ["--targets", "litert,litert", "--sizes", "96x64", "--networks", "16"]
    assert shape_bench.main([*arguments, "--out", str(out)]) == 0
    assert [one["target"] for one in json.loads(out.read_text())["fits"]] == ["litert"]
    assert "the most work in" in capsys.readouterr().out

"""The comparison of models: complete figures, a readable picture, and no speed of what is wrong."""

import json
import os
from contextlib import contextmanager
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.backends.contract import open_model
from perception_nodes.core.inference import HeadTensors
from perception_nodes.evaluation import models as bench
from perception_nodes.evaluation.models import ModelsBench
from perception_nodes.evaluation.models_report import pareto_picture, render
from perception_nodes.evaluation.pareto import front_of
from perception_nodes.evaluation.pareto_chart import pareto_svg
from perception_nodes.evaluation.roofline import network_facts
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import load_model
from perception_nodes.networks.openvino_core import VARIABLE
from perception_nodes.networks.two_runtimes import RUNTIMES, Disagreement, check_runs


def test_a_child_beside_its_parent(monkeypatch):
    """The same network twice is as fast as itself, as far as this machine can tell."""
    monkeypatch.setattr(bench, "RATE_HZ", 200.0)
    parent = load_model("open-n")
    child = parent.model_copy(update={"name": "child", "parent": "open-n", "gmac": 2.0})
    orphan = parent.model_copy(update={"name": "orphan", "parent": "elsewhere"})
    result = ModelsBench([parent, child, orphan], 10, [1], []).run(lambda text: None)
    json.dumps(result)
    first, second, third = result["models"]
    assert first["speedup_vs_parent"] is third["speedup_vs_parent"] is None
    assert 0.2 < second["speedup_vs_parent"] < 5
    assert second["predicted_speedup"] == 1
    assert "model.yaml says 2 GMAC" in second["notes"][0]
    assert "elsewhere is not among the models" in third["notes"][0]
    assert first["gmac"] == pytest.approx(parent.gmac, abs=1e-4)
    assert first["size_bytes"] == parent.path.stat().st_size
    assert {(run["threads"], run["pace"]) for run in first["runs"]} == {(1, "tight"), (1, "paced")}
    assert first["latency_ms"]["p50"] <= first["latency_ms"]["p90"] <= first["latency_ms"]["p99"]
    assert first["roofline_share"] > 0
    page = render(result)
    assert "times as fast as its parent open-n" in page
    svg = pareto_picture(result)
    assert svg in page
    ElementTree.fromstring(svg)


def test_two_models_of_one_name_are_refused():
    """They would stand for each other, and one that is too slow could be in time."""
    models = [load_model("open-n"), load_model("open-s").model_copy(update={"name": "open-n"})]
    with pytest.raises(SettingsError, match="several models have the name open-n, in /.* and /"):
        ModelsBench(models, 1, [1], []).run(lambda text: None)


@pytest.fixture
def tiles(monkeypatch):
    """A processor with matrix tiles, with which float networks are faster."""

    def faster(model, *_):
        return "ALL" if "float" in model.name else "AVX512_CORE_FP16"

    monkeypatch.setattr(bench, "faster_instructions", faster)
    monkeypatch.setattr(bench, "check_runs", lambda *_, **__: None)
    monkeypatch.setattr(bench, "RATE_HZ", 1000.0)
    monkeypatch.setenv(VARIABLE, "")  # so that what is set is taken back
    monkeypatch.delenv(VARIABLE)


@pytest.mark.parametrize(
    "names, given, set_to, noted",
    [
        (["open-m-float", "open-m"], None, "ALL", ["open-m"]),
        (["open-m", "open-m-float"], None, "AVX512_CORE_FP16", ["open-m-float"]),
        (["open-m", "open-m-float"], "AVX2", "AVX2", []),
    ],
)
def test_the_environment_or_the_first_model_decides_on_matrix_tiles_as_in_a_detector(
    tiles, monkeypatch, names, given, set_to, noted
):
    if given:
        monkeypatch.setenv(VARIABLE, given)
    result = ModelsBench([load_model(name) for name in names], 1, [1], []).run(lambda text: None)
    assert result["machine"]["onednn_max_cpu_isa"] == os.environ[VARIABLE] == set_to
    told = [(model["name"], note) for model in result["models"] for note in model["notes"]]
    told = [(name, note) for name, note in told if VARIABLE in note]
    assert [name for name, _ in told] == noted
    caption = str(bench.result_table(result).caption)
    assert all(note in caption and "measure it alone" in note for _, note in told)


def test_each_model_is_timed_on_each_runtime_and_for_auto_on_the_one_that_suits_it(monkeypatch):
    monkeypatch.setattr(bench, "RATE_HZ", 200.0)
    models = [load_model("open-n-float"), load_model("open-n")]
    result = ModelsBench(models, 10, [1], [], [AUTO, "onnxruntime"]).run(lambda text: None)
    for model, suits in zip(result["models"], ("openvino", "litert"), strict=True):
        backends = [run["backend"] for run in model["runs"]]
        assert backends == [suits, suits, "onnxruntime", "onnxruntime"]
        assert model["latency_ms"]["p50"] == model["runs"][0]["p50"]
    assert result["models"][1]["speedup_vs_parent"] > 1


@pytest.mark.parametrize("name", ["open-n", "open-s", "open-xs", "open-m"])
def test_the_runtimes_of_the_graph_agree_on_every_network_of_ours(name):
    """LiteRT ends at logits of 8, where the others go on; no score can tell."""
    model = load_model(name)
    check_runs(model, open_model, runtimes=(*RUNTIMES, runtime_for(AUTO, model)))


def test_no_speed_is_measured_of_a_network_that_one_runtime_reads_differently(monkeypatch):
    """One that is compared only because it was asked for."""

    @contextmanager
    def opened(name, model):
        with open_model("openvino", model) as backend:
            if name != "litert":
                yield backend
                return

            def infer(picture):
                heads = backend.infer(picture)
                return HeadTensors(heads.boxes, [tensor / 2 for tensor in heads.classes])

            yield SimpleNamespace(infer=infer)

    monkeypatch.setattr(bench, "open_model", opened)
    asked = ModelsBench([load_model("open-n")], 1, [1], [], ["litert"])
    with pytest.raises(Disagreement, match="onnxruntime and litert compute different") as caught:
        asked.run(lambda text: None)
    assert caught.value.status == 1


def test_the_graph_tells_the_cost():
    # As counted layer by layer when it was trained.
    whole, pruned = load_model("open-n-float"), load_model("open-xs")
    assert network_facts(whole).gmac == pytest.approx(whole.gmac, abs=1e-4)
    assert network_facts(pruned).gmac == pytest.approx(pruned.gmac, abs=1e-4)
    assert network_facts(whole).activation == "hardswish"


def test_a_picture_of_one_and_of_many():
    assert front_of({"a": (1, 0.3), "b": (2, 0.2), "c": (3, 0.4)}) == ["a", "c"]

    def measured(name, parent, latency_ms, accuracy):
        shown = {"name": name, "parent": parent, "precision": "int8"}
        return {**shown, "latency_ms": {"p50": latency_ms}, "map50_95": {"x&y": accuracy}}

    assert "a&lt;b $x$" in pareto_svg([measured("a<b $x$", None, 5.0, 0.5)], "x&y", "here")
    many = [measured(f"m{i}", "m0", 5 + i % 3, 0.5 + i / 100) for i in range(12)]
    svg = pareto_svg(many, "x&y", "here")
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    words = [text.text for text in found]
    assert {model["name"] for model in many} < set(words)
    assert svg == pareto_svg(many, "x&y", "here"), "the same figures give the same file"

"""A whole run on small images: killed, gone on with, the same in the end."""

import json
from unittest.mock import Mock

import pytest
from scenes import write_labelled

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
pytest.importorskip("ultralytics")


from model_compression import deploy, pipeline
from model_compression import train as training
from model_compression.errors import CompressionError, GateRefused
from model_compression.pipeline import compress
from model_compression.train import Samples
from perception_nodes.networks.model import load_model

pytestmark = pytest.mark.usefixtures("checkpoint")


class Killed(BaseException):
    """In place of a signal."""


@pytest.fixture
def config(values, write_config):
    return write_config(values)


def weights(folder):
    return torch.load(folder / "distil-1/network.pt", weights_only=False).state_dict()


def test_a_killed_run_goes_on_and_ends_the_same(config, tmp_path, monkeypatch):
    compress(config, tmp_path / "whole", until="distil-1")

    monkeypatch.setattr(training, "SAVE_EVERY_S", 0)
    real, save = training.update_average, pipeline.save_model
    steps = 0

    def kill_sometimes(*args):
        nonlocal steps
        steps += 1
        if steps in (2, 7):
            raise Killed
        real(*args)

    monkeypatch.setattr(training, "update_average", kill_sometimes)
    for _ in range(2):
        with pytest.raises(Killed):
            compress(config, tmp_path / "killed", until="distil-1")

    # A training is over, and its network lost.
    monkeypatch.setattr(pipeline, "save_model", Mock(side_effect=Killed))
    with pytest.raises(Killed):
        compress(config, tmp_path / "killed", until="distil-1")
    monkeypatch.setattr(pipeline, "save_model", save)
    compress(config, tmp_path / "killed", until="distil-1")
    trainings, steps_each, killed_steps = 4, 3, 2
    assert steps == trainings * steps_each + killed_steps  # none is repeated but where it was lost
    assert not list((tmp_path / "killed").rglob("state.pt"))
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    torch.testing.assert_close(killed, whole, atol=1e-5, rtol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "killed/log.jsonl").open()]
    assert [line["stage"] for line in lines if line.get("done")] == [
        "dataset", "dense", "swap", "prune-1", "distil-1",
    ]  # fmt: skip
    assert not list((tmp_path / "killed").rglob("*.partial"))


def test_writes_models_that_load(config, tmp_path):
    compress(config, tmp_path / "run")
    models = tmp_path / "run/models"
    names = {path.name for path in models.iterdir()}
    assert {"tiny", "tiny-fp32", "tiny-dense", "tiny-dense-int8", "tiny-swapped"} <= names
    tiny = load_model(str(models / "tiny"))
    assert (tiny.parent, tiny.precision, tiny.input.width) == ("tiny-dense", "int8", 96)
    assert (models / "tiny/tiny.s8.onnx").exists()
    # Done before: nothing is made again.
    before = (models / "tiny/model.yaml").stat().st_mtime_ns
    compress(config, tmp_path / "run")
    assert (models / "tiny/model.yaml").stat().st_mtime_ns == before


def test_a_loss_that_is_no_number_is_told(config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "distillation_loss", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(CompressionError, match="loss became nan at step 0; lower learning_rate"):
        compress(config, tmp_path / "run", until="dense")


def test_another_configuration_is_no_way_to_go_on(values, write_config, tmp_path):
    compress(write_config(values), tmp_path / "run", until="dense")
    with pytest.raises(CompressionError, match="step dense was done with another configuration"):
        compress(write_config({**values, "seed": 1}), tmp_path / "run", until="dense")


def test_a_step_that_was_only_begun_is_gone_on_with_by_its_own_configuration_alone(
    values, write_config, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.dataset, "build", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compress(write_config(values), tmp_path / "run", until="dense")
    other = {**values, "min_confidence": 0.7}
    with pytest.raises(CompressionError, match="step dataset was begun with another configuration"):
        compress(write_config(other), tmp_path / "run", until="dense")
    compress(write_config(values), tmp_path / "run", until="dataset")
    assert not (tmp_path / "run/dataset/begun.json").exists()


def test_the_gate_refuses_and_writes_nothing(values, write_config, tmp_path, monkeypatch):
    limits = {"max_loss": 0.05, "max_quantization_loss": 0.2}
    values["gate"] = {"data": ["set/images/val"], "unproven": ["person"], **limits}
    values["quantize"] = {"images": 8, "finetune_steps": 2}
    monkeypatch.setattr(deploy, "score_of", lambda variant: 0.5 if variant.table else 0.6)
    with pytest.raises(GateRefused, match=r"tiny has mAP50-95 0\.500, 0\.100 below tiny-dense"):
        compress(write_config(values), tmp_path / "run")
    assert not (tmp_path / "run/models/tiny").exists()


def without_work(monkeypatch, **others) -> list[str]:
    """Let the steps of a run do nothing, or something else; returns which were done."""
    done, real = list[str](), pipeline.plan

    def noted(name):
        def step(run, progress):
            done.append(name)
            return others.get(name, lambda: {})()

        return step

    monkeypatch.setattr(
        pipeline, "plan", lambda config: [(*step[:2], noted(step[0])) for step in real(config)]
    )
    return done


@pytest.mark.parametrize("remedy", ["distil", "gate"])
def test_what_was_refused_goes_on_with_either_remedy(
    values, write_config, tmp_path, monkeypatch, remedy
):
    with monkeypatch.context() as patched:
        without_work(patched, quantize=Mock(side_effect=GateRefused("train longer")))
        with pytest.raises(GateRefused):
            compress(write_config(values), tmp_path / "run")
    remedies = {"distil": [*values["distil"], {"epochs": 2}], "gate": {"max_loss": 0.05}}
    done = without_work(monkeypatch)
    compress(write_config({**values, remedy: remedies[remedy]}), tmp_path / "run")
    assert done == ["distil-2"] * (remedy == "distil") + ["quantize"]


def test_another_configuration_of_a_later_step_is_refused_before_the_work(
    values, write_config, tmp_path, monkeypatch
):
    done = without_work(monkeypatch)
    compress(write_config(values), tmp_path / "run")
    done.clear()
    more = write_config({**values, "distil": [*values["distil"], {"epochs": 2}]})
    with pytest.raises(CompressionError, match="step quantize was done with another configuration"):
        compress(more, tmp_path / "run")
    assert not done
    compress(more, tmp_path / "run", until="distil-2")  # which does not come to it
    assert done == ["distil-2"]


def test_what_the_gate_cannot_tell_is_refused_at_once(values, write_config, tmp_path):
    values["gate"] = {"data": ["set/images/val"]}  # labels cars alone
    with pytest.raises(GateRefused, match="has the classes person, and the sets of the gate have"):
        compress(write_config(values), tmp_path / "run")
    values["gate"] = {"data": ["set/images/train"], "unproven": ["person"]}
    with pytest.raises(CompressionError, match="12 of the 12 images of .* are trained on"):
        compress(write_config(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_step_is_named(config, tmp_path):
    with pytest.raises(CompressionError, match="step 'pruning' is unknown; this run has dataset"):
        compress(config, tmp_path / "run", until="pruning")
    assert not (tmp_path / "run").exists()


def test_images_of_a_set_may_be_shown_more_often(tmp_path):
    for name in ("road_1", "road_2", "road_sign_1"):
        write_labelled(tmp_path, f"{name}.jpg", ["2 0.5 0.5 0.1 0.1"])
    samples = Samples(tmp_path, {"road": 1, "road_sign": 3})
    assert [path.stem for path in samples.images] == ["road_1", "road_2", *["road_sign_1"] * 3]
    assert len(samples.labels) == 5

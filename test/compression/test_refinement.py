"""Sensitivity, fallback, and training for the rounding."""

import numpy as np
import onnxruntime
import pytest
from toys import toy, toy_frames

from model_compression.errors import CompressionError
from model_compression.quantization import emit, measure
from model_compression.quantization.divergence import divergence
from model_compression.quantization.graph import weights_of
from model_compression.quantization.ranges import open_float
from model_compression.quantization.sensitivity import cost_table, fallback, sensitivity


@pytest.fixture(scope="module")
def model():
    return toy()


@pytest.fixture(scope="module")
def table(model):
    return measure(model, toy_frames(), "toy", weight_bits=4)


@pytest.fixture(scope="module")
def costs(model, table):
    return sensitivity(model, table, toy_frames(1))


def loss_of(model, reference, table):
    """Mean divergence of the 8-bit form of a model from the reference."""
    names = ["box_8", "class_8"]
    original, rounded = open_float(reference, names), open_float(emit(model, table, "u8"), names)
    frames = [frame for _, frame in toy_frames(6, seed=3)]
    return float(np.mean([divergence(original(frame), rounded(frame)) for frame in frames]))


class TestDivergence:
    @staticmethod
    def heads(seed):
        rng = np.random.default_rng(seed)
        return [rng.normal(0, 2, (1, c, 3, 4)).astype(np.float32) for c in (64, 8)]

    def test_is_nought_for_the_same_answer_and_positive_for_another(self):
        assert divergence(self.heads(0), self.heads(0)) == pytest.approx(0, abs=1e-9)
        assert divergence(self.heads(0), self.heads(1)) > 0.1

    def test_boxes_count_where_an_object_is(self):
        box, classes = self.heads(0)
        classes[:] = -12
        classes[0, 3, 1, 2] = 3
        at_object, elsewhere = box.copy(), box.copy()
        at_object[0, :10, 1, 2] += 2
        elsewhere[0, :10, 0, 0] += 2
        near, far = (divergence([box, classes], [b, classes]) for b in (at_object, elsewhere))
        assert near > 100 * far


class TestSensitivity:
    def test_a_convolution_costs_more_with_wild_weights(self, model, table):
        wild = toy()
        weight = next(t for t in wild.graph.initializer if t.name == "mix.weight")
        values = weights_of(wild)["mix.weight"].copy()
        values[:, 0] *= 20  # one input channel takes all the codes
        weight.raw_data = values.tobytes()
        before, after = (
            {layer.name: layer.weights for layer in sensitivity(*pair, toy_frames(2))}
            for pair in ((model, table), (wild, measure(wild, toy_frames(), "toy", weight_bits=4)))
        )
        assert after["mix"] > 2 * before["mix"]

    def test_lists_every_convolution_the_costliest_first(self, costs):
        assert len(costs) == 11
        weights = [layer.weights for layer in costs]
        assert weights == sorted(weights, reverse=True)
        outputs = {layer.name for layer in costs if layer.activation == 0}
        assert outputs == {"box.last", "class.last"}
        assert cost_table(costs, most=4).row_count == 5


class TestFallback:
    def test_keeps_no_more_than_it_must(self, model, table, costs):
        asked = []

        def accuracy(tried):
            asked.append(tried)
            onnxruntime.InferenceSession(emit(model, tried, "u8").SerializeToString())
            return float(len(asked))

        found = fallback(table, costs, accuracy, wanted=3)
        assert found.float_convolutions == (costs[0].name, costs[1].name)
        assert len(asked) == 3

    def test_keeps_none_where_all_is_well(self, table, costs):
        assert fallback(table, costs, lambda _: 1.0, wanted=1).float_convolutions == ()

    def test_refuses_when_nothing_helps(self, table, costs):
        with pytest.raises(CompressionError, match=r"3 convolutions .* 0.5000, 0.9000 are wanted"):
            fallback(table, costs, lambda _: 0.5, wanted=0.9, most=3)


class TestFinetune:
    @pytest.fixture
    def training(self):
        pytest.importorskip("torch")
        from model_compression.quantization import finetune

        return finetune

    @pytest.mark.parametrize("activation", ["HardSwish", "Relu", "SiLU"])
    def test_runs_the_very_graph(self, training, activation):
        import torch

        model = toy(activation)
        table = measure(model, toy_frames(), "toy")
        network = training.RoundedGraph(model, table.check(model), table)
        frame = next(toy_frames(1, seed=3))[1]
        for rounded, file in ((False, model), (True, emit(model, table, "u8"))):
            with torch.no_grad():
                ours = network(torch.from_numpy(frame[None]), rounded=rounded)
            theirs = open_float(file, table.outputs)(frame)
            for a, b, amax in zip(ours, theirs, table.outputs.values(), strict=True):
                assert np.abs(a.numpy() - b).max() <= (3 * amax / 127 if rounded else 1e-4)

    def test_the_losses_are_one_measure(self, training):
        import torch

        a, b = TestDivergence.heads(0), TestDivergence.heads(1)
        ours = training.distance([torch.tensor(x) for x in b], [torch.tensor(x) for x in a])
        assert float(ours) == pytest.approx(divergence(a, b), rel=1e-4)

    def test_brings_the_rounded_network_nearer_to_the_float_one(self, training, model, table):
        def batches():
            for seed in range(100, 1000):
                yield np.stack([frame for _, frame in toy_frames(4, seed=seed)])

        schedule = training.Schedule(steps=60, learning_rate=2e-3)
        before = weights_of(model)
        trained, new = training.finetune(model, table, batches(), schedule)
        assert loss_of(trained, model, new) < 0.7 * loss_of(model, model, table)
        np.testing.assert_equal(weights_of(model), before)
        assert new.weights_sha256 != table.weights_sha256
        assert new.amax != table.amax

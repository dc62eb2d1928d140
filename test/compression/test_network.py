"""Networks: rebuilt layers, pruned channels, and the file that is written of them."""

import pytest

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")

from exported import assert_computes

from compression.errors import CompressionError
from compression.export import export
from compression.model import build_model, count_gmac, load_model, make_plain, save_model
from compression.prune import BLOCK, choose, find_groups, measure_sensitivity, prune, silenced

SIZE = (96, 64)


@pytest.fixture(scope="module")
def plain(checkpoint):
    torch.manual_seed(0)
    network = make_plain(build_model(checkpoint), "hardswish").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: none is the identity
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.1, 0.1)
    return network


@pytest.fixture
def images():
    return torch.rand(2, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(1))


def test_a_split_block_is_the_same_function(checkpoint, images):
    dense = build_model(checkpoint).eval()
    plain = make_plain(dense, "silu")
    for index in (2, 4, 6, 8):
        block = dense.model[index]
        x = torch.rand(1, block.cv1.conv.in_channels, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(plain.model[index](x), block(x))


def test_plain_layers_only(plain, images, tmp_path):
    graph = export(plain, tmp_path / "a.onnx", SIZE).graph
    operators = {node.op_type for node in graph.node}
    assert operators - {"Constant"} == {
        "Add", "Concat", "Conv", "DequantizeLinear", "HardSwish", "Resize", "Transpose",
    }  # fmt: skip


@pytest.mark.parametrize("activation", ["dense", "hardswish", "relu"])
def test_the_file_computes_what_the_network_does(checkpoint, tmp_path, activation):
    network = build_model(checkpoint).eval()
    if activation != "dense":
        network = make_plain(network, activation)
    export(network, tmp_path / "a.onnx", SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert_computes(tmp_path / "a.onnx", network)


def test_macs_are_those_of_the_layers(checkpoint):
    # YOLOv8n on 640 x 640 is known to take 4.37 G multiply-accumulates with 80 classes.
    dense = build_model(checkpoint)
    rows = sum(80 * 72 * side**2 for side in (80, 40, 20)) / 1e9
    assert count_gmac(dense, (640, 640)) + rows == pytest.approx(4.37, abs=0.02)


def test_silence_is_as_good_as_absence(plain, images):
    """What sensitivity measures is what pruning then does."""
    groups = find_groups(plain, SIZE)
    for group in groups[:: max(1, len(groups) // 6)]:
        with torch.no_grad(), silenced(group, BLOCK):
            silent = plain(images)
        pruned = remove_one(plain, group)
        assert count_gmac(pruned, SIZE) == pytest.approx(
            count_gmac(plain, SIZE) - BLOCK * group.gmac, rel=1e-3
        )
        with torch.no_grad():
            for ours, theirs in zip(silent, pruned(images), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def remove_one(network, group):
    from compression.prune import remove

    return remove(network, [group], {group.root: BLOCK}, SIZE)


def test_prunes_to_the_target_in_blocks(plain, images, tmp_path):
    target = 0.6 * count_gmac(plain, SIZE)
    pruned, table = prune(plain, images, target, SIZE, lambda done, total: None)
    assert count_gmac(pruned, SIZE) <= target
    assert sum(row["removed"] for row in table) > 0
    for module in pruned.modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is None:
            assert module.out_channels % BLOCK == 0
    save_model(pruned, tmp_path / "pruned.pt")
    with torch.no_grad():
        for ours, theirs in zip(
            load_model(tmp_path / "pruned.pt")(images), pruned.eval()(images), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


def test_the_least_missed_channels_go_first(plain, images):
    groups = measure_sensitivity(plain, images, SIZE, lambda done, total: None)
    group = min(groups, key=lambda g: g.change[0] / g.gmac)
    assert choose(groups, BLOCK * group.gmac * 0.5) == {group.root: BLOCK}


def test_a_teacher_of_other_classes_is_refused(data, tmp_path):
    import ultralytics

    other = tmp_path / "other.pt"
    model = ultralytics.YOLO("yolov8n.yaml", verbose=False)
    model.model.model[-1].nc = 3
    model.save(other)
    with pytest.raises(CompressionError, match=r"other\.pt has 3 classes"):
        build_model(other)
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(CompressionError, match=r"text\.pt cannot be loaded"):
        build_model(tmp_path / "text.pt")

"""Networks: rebuilt layers, pruned channels, and the file that is written of them."""

import pytest

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
ultralytics = pytest.importorskip("ultralytics")

from checkpoints import save_random
from exported import as_trained, assert_computes
from refused import refused

from model_compression import prune as pruning
from model_compression.checkpoint import class_names
from model_compression.distillation.hgnet import HGNetwork
from model_compression.errors import CompressionError
from model_compression.export import export
from model_compression.model import (
    ACTIVATIONS,
    build_model,
    count_gmac,
    load_model,
    make_plain,
    save_model,
)
from model_compression.prune import BLOCK, choose, find_groups, measure_sensitivity, prune, silenced

SIZE = (96, 64)
CLASSES = ("person", "car")


@pytest.fixture(scope="module", params=["yolov8n", "yolo11n"])
def dense(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pt"
    save_random(path, request.param, ("bicycle", *CLASSES))
    return build_model(path, CLASSES).eval()


@pytest.fixture(scope="module")
def plain(dense):
    torch.manual_seed(0)
    return as_trained(make_plain(dense, "hardswish").eval())


@pytest.fixture
def images():
    return torch.rand(2, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(1))


def test_a_split_block_is_the_same_function(dense, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "silu", torch.nn.SiLU)
    plain = make_plain(dense, "silu")
    for index in (2, 4, 6, 8):
        block = dense.model[index]
        x = torch.rand(1, block.cv1.conv.in_channels, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(plain.model[index](x), block(x))


@pytest.mark.parametrize("activation", ["dense", "hardswish", "relu"])
def test_the_file_computes_what_the_network_does(dense, tmp_path, activation):
    network = dense if activation == "dense" else make_plain(dense, activation)
    export(network, tmp_path / "a.onnx", SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert_computes(tmp_path / "a.onnx", network)


def test_macs_are_those_of_the_layers(checkpoint):
    # YOLOv8n on 640 x 640 is known to take 4.37 G multiply-accumulates with 80 classes.
    dense = build_model(checkpoint, class_names(checkpoint))
    assert count_gmac(dense, (640, 640)) == pytest.approx(4.37, abs=0.02)


@pytest.mark.parametrize("network", ["plain", "short"])
def test_silence_is_as_good_as_absence(network, plain, images):
    """What sensitivity measures is what pruning then does."""
    model = plain if network == "plain" else HGNetwork(len(CLASSES), short=True).eval()
    groups = find_groups(model, SIZE)
    for group in groups[:: max(1, len(groups) // 6)]:
        with torch.no_grad(), silenced(group, BLOCK):
            silent = model(images)
        pruned = pruning.remove(model, [group], {group.root: BLOCK}, SIZE)
        fewer = count_gmac(model, SIZE) - BLOCK * group.gmac
        assert count_gmac(pruned, SIZE) == pytest.approx(fewer, rel=1e-3)
        with torch.no_grad():
            torch.testing.assert_close(pruned(images), silent, atol=1e-4, rtol=1e-4)


def test_prunes_to_the_target_in_blocks(plain, images, tmp_path):
    target = 0.6 * count_gmac(plain, SIZE)
    pruned, table = prune(plain, images, target, SIZE, lambda done, total: None)
    assert count_gmac(pruned, SIZE) <= target
    assert sum(row["removed"] for row in table) > 0
    before = dict(plain.named_modules())
    for name, module in pruned.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert (before[name].out_channels - module.out_channels) % BLOCK == 0
    save_model(pruned, tmp_path / "pruned.pt")
    with torch.no_grad():
        loaded = load_model(tmp_path / "pruned.pt")(images)
        torch.testing.assert_close(loaded, pruned.eval()(images))


def test_the_least_missed_channels_go_first(plain, images):
    known, progress = {}, lambda done, total: None
    groups = measure_sensitivity(plain, images, SIZE, progress, known)
    assert known == {group.root: group.change for group in groups}
    known[groups[0].root] = kept = [9.0] * len(groups[0].change)
    assert measure_sensitivity(plain, images, SIZE, progress, known)[0].change == kept, "not anew"
    group = min(groups, key=lambda g: g.change[0] / g.gmac)
    assert choose(groups, BLOCK * group.gmac * 0.5) == {group.root: BLOCK}


def test_a_class_keeps_its_row(checkpoint, images):
    """Whatever the order of the classes, and however many the checkpoint has."""
    names = class_names(checkpoint)
    whole, cut = (build_model(checkpoint, chosen).eval() for chosen in (names, ("bus", "person")))
    rows = [names.index("bus"), names.index("person")]
    with torch.no_grad():
        wanted = [every[:, rows] for every in whole(images)[3:]]
        torch.testing.assert_close([*cut(images)[3:]], wanted)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("yolov8n-seg", "is a network for 'segment'; take a detector"),
        ("yolov8n-pose", "is a network for 'pose'; take a detector"),
        ("yolov8n-p2", "is no YOLOv8 or YOLO11 of strides 8, 16 and 32, it has another head"),
        ("yolov10n", "layers C2fCIB, PSA, SCDown, v10Detect; take one of these, or another"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(tmp_path, network, said):
    path = tmp_path / "other.pt"
    ultralytics.YOLO(f"{network}.yaml", verbose=False).save(path)
    text = refused(CompressionError, build_model, path, ())
    assert "other.pt" in text and said in text


@pytest.mark.parametrize("content", ["text", "weights alone", "another package's", "none"])
def test_what_is_no_checkpoint_of_the_tool_is_refused(tmp_path, content):
    path = tmp_path / "it.pt"
    if content == "text":
        path.write_text("no checkpoint")
    elif content == "weights alone":
        torch.save({"layer.weight": torch.zeros(3)}, path)
    elif content == "another package's":
        path.write_bytes(b"cnowhere_to_be_found\nNetwork\n.")
    assert "it.pt cannot be read by ultralytics" in refused(CompressionError, build_model, path, ())


def test_a_teacher_without_a_class_is_refused(checkpoint):
    with pytest.raises(CompressionError, match=r"random\.pt has no class 'forklift', only person"):
        build_model(checkpoint, ("person", "forklift"))

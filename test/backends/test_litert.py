"""LiteRT files: every layer against the integer network, objects, another reader, delegates."""

import subprocess

import numpy as np
import onnx
import pytest
from counterparts import heads_of, mutual_partners
from refused import refused
from street_frames import every, street_frames
from toys import toy_frames, toy_in_8_bits

from perception_nodes.backends.compiled import compiled
from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.inference import BackendError, BackendLost
from perception_nodes.core.integer import Convolution
from perception_nodes.networks.model import load_model
from perception_nodes.system.environment import cache_folder

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
from perception_nodes.backends.litert import CERTAIN, Backend, share  # noqa: E402
from perception_nodes.backends.litert_writer import write  # noqa: E402

EDGE_TPU = {
    *("ADD", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "MUL", "PAD"),
    *("RESIZE_NEAREST_NEIGHBOR", "SLICE"),
}
"""Of the operators that Google lists for the Edge TPU's compiler, those that we write."""
NO_DELEGATE = """
typedef struct Delegate { void *data; int (*prepare)(void *, struct Delegate *);
  void *copy_from, *copy_to, *free_buffer; long flags; void *builder; } Delegate;
static int prepare(void *context, Delegate *delegate) { return 0; }
static Delegate delegate = {0, prepare};
Delegate *tflite_plugin_create_delegate(char **keys, char **values, unsigned long count,
                                        void (*report)(const char *)) {
  for (unsigned long n = 0; n < count; n++)
    if (keys[n][0] == 'x') { report("no such device"); return 0; }
  return &delegate; }
void tflite_plugin_destroy_delegate(Delegate *delegate) {}
"""
"""A delegate that takes no operator at all, by the C interface of delegates."""


@pytest.fixture(scope="module", params=["HardSwish", "Relu"])
def toy_network(request, tmp_path_factory):
    """A network with one of everything."""
    path = tmp_path_factory.mktemp("toy") / "toy.onnx"
    onnx.save(toy_in_8_bits(activation=request.param), path)
    return read_network(path)


def opened(content, **options):
    """A file in LiteRT's own plain kernels, whose tensors can all be read."""
    kinds = interpreter.OpResolverType
    found = interpreter.Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        **options,
    )
    found.allocate_tensors()
    return found


def check_layers(network, content, images):
    """Check every layer, given LiteRT's own codes."""
    lite = opened(content)
    places = {d["name"]: d["index"] for d in lite.get_tensor_details()}
    steps = {d["name"]: d["quantization"][0] for d in lite.get_tensor_details()}
    for image in images:
        lite.set_tensor(places[network.image], (image ^ 128).view(np.int8)[None])
        lite.invoke()
        tensors = {
            name: lite.get_tensor(places[name])[0].transpose(2, 0, 1)
            for name in (network.image, *(layer.target for layer in network.layers))
        }
        for layer in network.layers:
            ours, theirs = layer.run(tensors).astype(int), tensors[layer.target].astype(int)
            if not isinstance(layer, Convolution):
                np.testing.assert_array_equal(ours, theirs, layer.target)
                continue
            if layer.store is None:
                real = np.ldexp(ours.astype(float), -layer.fraction)
                ours = np.clip(np.rint(real / steps[layer.target]), -128, 127)
            # Both round to codes once, and LiteRT rounds what lies between, too: x, where HardSwish
            # times 6 has a slope of up to 9; x + 3, by which it multiplies up to 127 / 6 steps; and
            # what a residual is added to.
            convolved = 9.0 * steps.get(f"{layer.target}/convolved", 0.0)
            between = convolved + steps.get(f"{layer.target}/activated", 0.0)
            difference = np.abs(ours - theirs)
            assert difference.max() <= 1.25 + between / 2 / steps[layer.target], layer.target
            assert (difference > 1).mean() < 0.1, layer.target


def test_every_layer_of_a_toy_is_the_integer_networks(toy_network):
    images = [image for _, image in toy_frames(4, seed=9)]
    images += [np.full_like(images[0], value) for value in (0, 255)]  # borders show most
    check_layers(toy_network, write(toy_network, {}), images)


def test_only_operators_of_the_edge_tpu_all_in_8_bits(toy_network):
    lite = opened(write(toy_network, {}))
    assert {operator["op_name"] for operator in lite._get_ops_details()} <= EDGE_TPU
    kinds = {np.dtype(detail["dtype"]).name for detail in lite.get_tensor_details()}
    assert kinds == {"int8", "int32"}  # biases and sizes


def test_another_reader_of_the_schema_sees_the_same_file(toy_network):
    tflite = pytest.importorskip("tflite")
    content = write(toy_network, {})
    assert content[4:8] == b"TFL3"
    model = tflite.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    names = [graph.Tensors(number).Name().decode() for number in range(graph.TensorsLength())]
    assert names[graph.Inputs(0)] == toy_network.image
    ends = [names[graph.Outputs(number)] for number in range(graph.OutputsLength())]
    assert ends == list(toy_network.fractions)
    convolutions = [x for x in toy_network.layers if isinstance(x, Convolution)]
    for layer in convolutions:
        tensor = graph.Tensors(names.index(f"{layer.name}/weight"))
        stored = model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.int8)
        axes = (3, 0, 1, 2) if layer.depthwise else (0, 3, 1, 2)
        weight = stored.reshape(tensor.ShapeAsNumpy()).transpose(axes)
        np.testing.assert_array_equal(weight, layer.weight)
        assert tensor.Quantization().ScaleLength() == len(layer.weight)
        assert tensor.Quantization().QuantizedDimension() == (3 if layer.depthwise else 0)


@pytest.mark.parametrize("name", ["open-n", "open-s", "open-xs", "open-m"])
def test_shipped_models_find_what_the_integer_network_finds(name):
    model = load_model(name)
    images = list(street_frames(model, every(40)))
    network = read_network(model.path)
    check_layers(network, write(network, dict.fromkeys(model.outputs.classes, CERTAIN)), images[:1])
    decoder = model.decoder(DecodeSettings(0.1, 0.6))
    golden, lite = (heads_of(runtime, model, images) for runtime in ("golden", "litert"))
    iou, difference = mutual_partners(decoder, golden, lite)
    # Each object has its counterpart, but for one that is two things for a network in doubt: which
    # of them is dropped as the lesser may differ.
    assert np.mean(iou > 0) >= 0.95
    iou, difference = iou[iou > 0], difference[iou > 0]
    assert np.median(iou) >= 0.8
    assert difference.max() <= 0.25
    assert np.percentile(difference, 90) <= 0.2


def test_a_damaged_file_in_the_cache_is_written_anew(tmp_path):
    model = load_model("open-xs")
    settings = BackendSettings(1, str(tmp_path))
    open_backend("litert", settings).load(model)
    (written,) = tmp_path.glob("*.tflite")
    content = written.read_bytes()
    written.write_bytes(content[:1000])
    open_backend("litert", settings).load(model)
    assert written.read_bytes() == content


def test_a_cache_that_cannot_be_written_keeps_no_model_from_running(tmp_path):
    (tmp_path / "cache").touch()
    settings = BackendSettings(cache_dir=str(tmp_path / "cache"))
    open_backend("litert", settings).load(load_model("open-xs"))


@pytest.mark.parametrize("command", ["run", "evaluate", "compile"])
def test_an_edge_tpu_wants_the_file_of_its_compiler(tmp_path, monkeypatch, command):
    """It lies in the cache, also where a command has another folder for what it makes, or none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache, model = cache_folder(), load_model("open-xs")

    def load():
        if command == "compile":
            with compiled(model, "litert", 1, cache):
                return
        settings = BackendSettings(1, str(cache) if command == "run" else "")
        open_backend("litert", settings).load(model)

    monkeypatch.setenv("PERCEPTION_DELEGATE", "libedgetpu.so.1")
    with pytest.raises(BackendError, match=f"edgetpu_compiler -s -o {cache} {cache}/open-xs"):
        load()
    monkeypatch.delenv("PERCEPTION_DELEGATE")
    with compiled(model, "litert", 1, cache):
        pass
    (written,) = cache.glob("*.tflite")
    written.with_name(f"{written.stem}_edgetpu.tflite").write_bytes(written.read_bytes())
    monkeypatch.setenv("PERCEPTION_DELEGATE", "libedgetpu.so.1")
    with pytest.raises(BackendError, match=r"the delegate libedgetpu.so.1 .* cannot be loaded"):
        load()


def test_a_convolution_in_float_is_refused_by_name(tmp_path):
    onnx.save(toy_in_8_bits(float_convolutions=("enter",)), tmp_path / "toy.onnx")
    with pytest.raises(BackendError, match="'enter' is kept in float"):
        write(read_network(tmp_path / "toy.onnx"), {})


@pytest.mark.parametrize("name", ["open-n-float", "open-n-float"])
def test_what_is_no_integer_network_is_refused(name):
    assert name in refused(BackendError, Backend(BackendSettings(1)).load, load_model(name))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A delegate's library."""
    source = tmp_path_factory.mktemp("delegate") / "delegate.c"
    source.write_text(NO_DELEGATE)
    target = source.with_suffix(".so")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", target], check=True)
    return target


# LiteRT's destructor of a delegate that was not loaded fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestDelegates:
    def load(self, monkeypatch, text):
        monkeypatch.setenv("PERCEPTION_DELEGATE", str(text))
        return Backend(BackendSettings(1)).load(load_model("open-xs"))

    def test_operators_left_to_the_cpu_are_told(self, library, monkeypatch):
        device = self.load(monkeypatch, f"{library},device=usb").device
        assert device.startswith(f"{library}, 0 of ")
        assert device.endswith(" operators, the rest on the CPU")

    @pytest.mark.parametrize(
        "text, told", [("libc.so.6", "libc.so.6"), ("{},x=1", "no such device"), (",x=1", "x=1")]
    )
    def test_a_delegate_that_cannot_be_loaded_is_named(self, library, monkeypatch, text, told):
        with pytest.raises(BackendError, match=told) as caught:
            self.load(monkeypatch, text.format(library))
        assert "PERCEPTION_DELEGATE" in str(caught.value) and "\n" not in str(caught.value)

    def test_a_device_that_is_lost_ends_the_process_and_a_bad_frame_does_not(
        self, library, monkeypatch
    ):
        def gone(_):
            raise RuntimeError("Node number 0 (EdgeTpuDelegateForCustomOp) failed to invoke.")

        model = load_model("open-xs")
        image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
        for delegate, is_lost in ((str(library), True), ("", False)):
            monkeypatch.setenv("PERCEPTION_DELEGATE", delegate)
            backend = Backend(BackendSettings(1))
            backend.load(model)
            with monkeypatch.context() as patched:
                patched.setattr(interpreter.Interpreter, "invoke", gone)
                with pytest.raises(BackendError, match="failed to invoke") as caught:
                    backend.infer(image)
            assert isinstance(caught.value, BackendLost) == is_lost

    def test_the_share_of_the_cpus_own_delegate(self, toy_network):
        lite = interpreter.Interpreter(model_content=write(toy_network, {}))
        lite.allocate_tensors()
        operators = lite._get_ops_details()
        ours = [o["op_name"] for o in operators if o["op_name"] != "DELEGATE"]
        left = ours.count("HARD_SWISH") + ours.count("RESIZE_NEAREST_NEIGHBOR")
        text = share(operators)
        assert text.startswith(f"{len(ours) - left} of {len(ours)} operators")
        assert text.endswith("CPU") == bool(left)

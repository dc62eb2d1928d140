"""The types of convolutions, read from the logs of builders."""

from perception_nodes.gpu.tensorrt.layers import convolutions


def line(name="c", kind="correlation", inputs="Int8", constants="Int8", rest=""):
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {{ Name: x, Dimensions: [1,4], Strides: [4,1],"
        f" Datatype: {inputs}, Format: (NHWC) Channel major format }}], Constants: [ {{ Name: w, "
        f"Dimensions: [16,4], Datatype: {constants} }}, {{ Name: scale, Datatype: Float }}], "
        f"Outputs: [ {{ Name: y, Datatype: Float }}], TacticName: t, StreamId: 0{rest}"
    )


def in_int8(*lines):
    return {one.name: one.in_int8 for one in convolutions(lines)}


def test_types_decide():
    assert in_int8(line("a"), line("b", inputs="Float"), line("c", constants="Half")) == {
        "a": True,
        "b": False,
        "c": False,
    }


def test_as_tensorrt_writes_them():
    text = (
        "Name: conv1 + relu, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, "
        "Dimensions: [1,32,8,8], Format/Datatype: Thirty-two wide channel vectorized row major "
        "Int8 format }], Outputs: [ { Name: y, Format/Datatype: Row major linear FP32 }], "
        "ParameterType: Convolution, Kernel: [3,3], TacticName: t"
    )
    fallen = text.replace("conv1", "conv2").replace("Int8 format", "FP16 format")
    assert in_int8(text, fallen) == {"conv1 + relu": True, "conv2 + relu": False}

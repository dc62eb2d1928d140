"""The integer network's kernel, layer by layer, against traces that the golden model makes here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.core.integer import Network
from perception_nodes.gpu.cuda import Device
from perception_nodes.gpu.network_job import NetworkPlan, plan_network
from perception_nodes.gpu.network_stage import NetworkKernels

MODELS = ("open-n", "open-s", "open-xs")
Run = Callable[[NetworkPlan, Any], tuple[Sequence[Any], dict[str, Any]]]
"""Runs a plan on an image, uint8 [height, width, 3]; returns all buffers, and outputs by name."""


def images(network: Network) -> dict[str, Any]:
    """Noise, and coarse patches of colour, as the network's input."""
    random = np.random.default_rng(2)
    height, width = network.height, network.width
    coarse = random.integers(0, 256, (-(-height // 16), -(-width // 16), 3)).astype(np.uint8)
    patches = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return {
        "noise": random.integers(0, 256, (height, width, 3)).astype(np.uint8),
        "patches": np.ascontiguousarray(patches),
    }


def compare(
    run: Run, models: Sequence[str], progress: Callable[[int, int], None]
) -> tuple[int, list[str]]:
    """Run models, and compare the results of every layer with the golden model's.

    Returns:
        The number of layers compared, and a line for each one that differs.

    Raises:
        ImportError: onnx, which reads the models, is not installed.
    """
    from perception_nodes.backends.qdq import read_network

    count, differences, done = 0, [], 0
    for name in models:
        path = Path(__file__).parents[1] / f"models/{name}/{name}.u8.onnx"
        network = read_network(path)
        plan = plan_network(network)
        pictures = images(network)
        for kind, image in pictures.items():
            trace = network.trace(image)
            buffers, outputs = run(plan, image)
            for node in (node for wave in plan.waves for node in wave):
                target = node.layer.target
                if target in outputs:
                    found = np.ldexp(outputs[target], network.fractions[target])
                else:
                    found = plan.codes(target, buffers)
                wrong = int((found != trace[target]).sum())
                count += 1
                if wrong:
                    text = f"{name}, {kind}, {node.layer.name}: {wrong} of {found.size} differ"
                    differences.append(text)
            done += 1
            progress(done, len(models) * len(pictures))
    return count, differences


def on_device(device: Device) -> Run:
    """The function that `compare` calls, on the GPU."""
    stream = device.stream()

    def run(plan: NetworkPlan, image: Any) -> tuple[list[Any], dict[str, Any]]:
        instance = NetworkKernels(device, plan, stream).instance()
        memory = instance.memory
        host = device.pinned(memory.nbytes)
        host.array[: image.nbytes] = image.reshape(-1)
        stream.copy(memory.address, host.address, memory.nbytes)
        instance.enqueue(stream)
        stream.copy(host.address, memory.address, memory.nbytes)
        stream.wait()
        content = host.array.copy()
        host.close()
        memory.close()
        buffers = [
            content[at : at + size] for at, size in zip(instance.buffers, plan.buffers, strict=True)
        ]
        outputs = {}
        for name, at in instance.outputs.items():
            tensor = plan.graph.tensors[name]
            values = content[at : at + plan.output_bytes(name)].view(np.float32)
            outputs[name] = values.reshape(tensor.channels, tensor.height, tensor.width)
        return buffers, outputs

    return run

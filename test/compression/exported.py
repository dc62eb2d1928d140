"""An exported file against the network that it was made of."""

import numpy as np
import onnxruntime
import torch

from model_compression.contract import OUTPUT_NAMES


def assert_computes(file, network, atol=2e-4):
    """A file, by its path or content, gives what the network gives for a frame of noise."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    _, height, width, _ = session.get_inputs()[0].shape
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = session.run(list(OUTPUT_NAMES), {"image": frame[None]})
    rgb = torch.from_numpy(frame[:, :, ::-1].transpose(2, 0, 1).copy())[None].float() / 255
    with torch.no_grad():
        for ours, theirs in zip(found, network(rgb), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=atol)


def as_trained(network):
    """The network, none of whose batch norms is the identity, as after training."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.1, 0.1)
    return network

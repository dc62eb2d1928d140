"""The detections of a frame by the specifications of preprocessing and decoding."""

import decode_oracle
import numpy as np
import preprocess_oracle

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.gpu.decode_job import Head
from perception_nodes.gpu.preprocess_job import plan_frame


def specified(image, placement, model, backend):
    """What a GPU has to find, with the network's tensors from another backend."""
    plan = plan_frame(image, placement.letterbox, placement.grid())
    picture = preprocess_oracle.preprocess(np.frombuffer(image.data, np.uint8), plan)
    heads, outputs = backend.infer(picture), model.outputs
    size = model.input.width, model.input.height
    head = Head(*size, tuple(outputs.strides), outputs.reg_max, len(model.classes))
    settings = DecodeSettings()
    return decode_oracle.decode(heads.boxes, heads.classes, head, settings, placement).detections()


def same(ours, theirs):
    np.testing.assert_equal(vars(ours), vars(theirs))

"""Weights that an ONNX file leaves in another file, which no hash in model.yaml covers."""

from collections.abc import Iterator
from typing import Any

WORD = b"location"
"""The key that names the other file; without it, a file holds all its weights."""


def file_outside(content: bytes) -> str:
    """Name of the file that an ONNX file has weights in; empty if it holds all of them itself.

    Content that is no ONNX has none.
    """
    # Hardly any network has the word in it, so nodes seldom load a library to parse one.
    if WORD not in content:
        return ""
    import onnx

    try:
        network = onnx.load_model_from_string(content)
    except Exception:  # protobuf's DecodeError, which has no public name
        return ""
    return named_outside(network)


def named_outside(network: Any) -> str:
    """Name of that file for a parsed network, an `onnx.ModelProto`."""
    from onnx import TensorProto

    for tensor in messages(network, TensorProto):
        if tensor.data_location == TensorProto.EXTERNAL:
            return next((e.value for e in tensor.external_data if e.key == WORD.decode()), "?")
    return ""


def messages(message: Any, kind: type) -> Iterator[Any]:
    """All parts of a kind, also those in nodes, functions, and networks within networks."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from messages(part, kind)

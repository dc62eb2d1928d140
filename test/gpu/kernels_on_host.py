"""The GPU's kernels compiled for the host: slow, with the same bits."""

import ctypes
import hashlib
import os
import subprocess

import numpy as np

from perception_nodes.gpu import decode_job, preprocess_job
from perception_nodes.gpu.network_job import build_launches
from perception_nodes.gpu.nvrtc import KERNELS
from perception_nodes.system.environment import cache_folder

FORWARDS, BACKWARDS = 0, 1
"""Orders in which the threads of a block run."""
# Contraction of a * b + c into one operation would change the bits.
FLAGS = ("-x", "c++", "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-pthread")


class CompilerMissing(RuntimeError):
    """There is no C++ compiler, or it fails; the text says what to do."""


def load(name):
    """Compile a kernel's source with g++ (or $CXX) and load it.

    Args:
        name: name of the file in `kernels/`, without `.cu`.

    Raises:
        CompilerMissing: there is no compiler, or it fails.
    """
    compiler = os.environ.get("CXX", "g++")
    source = KERNELS / f"{name}.cu"
    texts = [path.read_bytes() for path in (source, *sorted(KERNELS.glob("*.cuh")))]
    key = hashlib.sha256(b"\0".join([*texts, " ".join((compiler, *FLAGS)).encode()])).hexdigest()
    library = cache_folder() / "kernels" / f"{name}-host-{key[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(f".{os.getpid()}.part")
        command = [compiler, *FLAGS, "-o", str(partial), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except OSError as error:
            raise CompilerMissing(
                f"no C++ compiler {compiler!r} ({error.strerror}); install g++, or name one in CXX"
            ) from error
        except subprocess.CalledProcessError as error:
            partial.unlink(missing_ok=True)
            raise CompilerMissing(f"{' '.join(command)} fails:\n{error.stderr}") from error
        partial.replace(library)
    return ctypes.CDLL(str(library))


def preprocess(frame, plan, order=FORWARDS, fetched=False):
    """Compute the network's input with `preprocess.cu` on the host.

    Args:
        frame: uint8 [n], the bytes of the frame.
        plan: plan of such frames.
        order: order of the threads, `FORWARDS` or `BACKWARDS`.
        fetched: whether `fetch.cu` first moves what is needed to other memory.
    """
    arrays = [np.ascontiguousarray(array) for array in preprocess_job.constants_of(plan)]
    address = frame.ctypes.data
    cell, ticket = preprocess_job.FrameCell(address, address), ctypes.c_uint64()
    if fetched:
        moved = np.full(plan.frame_bytes + 4 * preprocess_job.PIECE_BYTES, 0xA5, np.uint8)
        first = moved.ctypes.data + preprocess_job.PIECE_BYTES
        cell.pixels = first + (address - first) % preprocess_job.PIECE_BYTES
        at = ctypes.addressof(cell), arrays[0].ctypes.data
        fetch_job, blocks = preprocess_job.build_fetch_job(plan, *at)
        load("fetch").fetch(ctypes.byref(fetch_job), blocks, order)
    out = np.empty((plan.letterbox.height, plan.letterbox.width, 3), np.uint8)
    job = preprocess_job.build_preprocess_job(
        plan,
        ctypes.addressof(cell),
        ctypes.addressof(ticket),
        out.ctypes.data,
        [array.ctypes.data for array in arrays],
    )
    tiles_x, tiles_y, _ = preprocess_job.grid_of(plan)
    load("preprocess").preprocess(ctypes.byref(job), tiles_x, tiles_y, order)
    return out


def decode(boxes, classes, head, settings, placement, order=FORWARDS):
    """Decode a head's tensors with `decode.cu` on the host.

    Args:
        boxes: for each level, float32 [1, 4 * reg_max, rows, columns].
        classes: for each level, float32 [1, n, rows, columns].
        head: sizes of the network's head.
        settings: thresholds of the decoder.
        placement: placement of the frame.
        order: order of the threads, `FORWARDS` or `BACKWARDS`.
    """
    levels = [
        (np.ascontiguousarray(box), np.ascontiguousarray(logits))
        for box, logits in zip(boxes, classes, strict=True)
    ]
    state, result, scratch = (
        decode_job.DecodeState(),
        decode_job.DecodeResult(),
        np.zeros(12 * head.cells + 8, np.uint8),
    )
    job = decode_job.build_decode_job(
        head,
        settings,
        placement,
        [(box.ctypes.data, logits.ctypes.data) for box, logits in levels],
        ctypes.addressof(state),
        scratch.ctypes.data + -scratch.ctypes.data % 8,
        ctypes.addressof(result),
    )
    run_decode(job, head, order)
    return result


def run_decode(job, head, order=FORWARDS):
    """Run the kernels of `decode.cu` one after the other; the job's addresses are the host's."""
    library = load("decode")
    for name, blocks, _ in decode_job.launches_of(head):
        getattr(library, name)(ctypes.byref(job), blocks, order)


def run_network(plan, buffers, order=FORWARDS):
    """Run all layers of a network with `network.cu` on the host.

    Args:
        plan: plan of the network.
        buffers: memory for the plan's buffers, of which the image's is filled; all others will be.
        order: order of the blocks and threads, `FORWARDS` or `BACKWARDS`.

    Returns:
        The outputs by name, float32 [channels, height, width].
    """
    tensors = [plan.graph.tensors[name] for name in plan.graph.outputs]
    outputs = {t.name: np.empty((t.channels, t.height, t.width), np.float32) for t in tensors}
    library = load("network")
    for job, blocks in build_launches(
        plan,
        [buffer.ctypes.data for buffer in buffers],
        [array.ctypes.data for array in plan.constants],
        {name: output.ctypes.data for name, output in outputs.items()},
    ):
        library.convolve(ctypes.byref(job), blocks, order)
    return outputs

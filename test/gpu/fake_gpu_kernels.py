"""Kernels for `FakeGpu`: those compiled for the host, after conversion to host addresses."""

import ctypes

import kernels_on_host

from perception_nodes.gpu.decode_job import DecodeJob
from perception_nodes.gpu.network_job import LaunchJob
from perception_nodes.gpu.preprocess_job import FetchJob, FrameCell, PreprocessJob

KERNELS = {
    "fetch": ("fetch", FetchJob, 256),
    "preprocess": ("preprocess", PreprocessJob, 256),
    "convolve": ("network", LaunchJob, 128),
    "find_candidates": ("decode", DecodeJob, 128),
    "decode_boxes": ("decode", DecodeJob, 128),
    "suppress": ("decode", DecodeJob, 512),
}
"""File, arguments, and threads of a block of each kernel."""


def install_kernels(gpu):
    """Let a `FakeGpu` run the kernels of the project."""
    gpu.kernels |= {name: kernel(name) for name in KERNELS}


def kernel(name):
    file, kind, threads = KERNELS[name]

    def run(gpu, grid, block, packed):
        assert block == (threads, 1, 1)
        job = kind.from_buffer_copy(packed)
        if hasattr(job, "frame"):  # which holds addresses, too
            cell = FrameCell.from_buffer_copy(gpu.view(job.frame, ctypes.sizeof(FrameCell)))
        on_host(gpu, job)
        if hasattr(job, "frame"):
            there = FrameCell(*(_at(gpu, one) for one in (cell.pixels, cell.source)), cell.ticket)
            job.frame = ctypes.addressof(there)
        blocks = grid[:2] if name == "preprocess" else grid[:1]
        getattr(kernels_on_host.load(file), name)(ctypes.byref(job), *blocks, 0)

    return run


def on_host(gpu, job):
    """Make host addresses of all addresses in a kernel's arguments."""
    for name, kind in job._fields_:
        value = getattr(job, name)
        if kind is ctypes.c_uint64:
            setattr(job, name, _at(gpu, value))
        elif issubclass(kind, ctypes.Structure):
            on_host(gpu, value)
        elif issubclass(kind, ctypes.Array) and issubclass(kind._type_, ctypes.Structure):
            for one in value:
                on_host(gpu, one)


def _at(gpu, address):
    return gpu.view(address, 1).ctypes.data if address else 0

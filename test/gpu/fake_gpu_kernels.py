"""Kernels for `FakeGpu`: those compiled for the host, after conversion to host addresses."""

import ctypes

import kernels_on_host

from perception_nodes.gpu.decode_job import DecodeJob, DecodeResult, DecodeState
from perception_nodes.gpu.network_job import THREADS, LaunchJob
from perception_nodes.gpu.preprocess_job import TILE, FetchJob, FrameCell, PreprocessJob

DECODE_GRIDS = {
    "find_candidates": lambda cells: (-(-cells // 128), 128),
    "decode_boxes": lambda cells: (-(-4 * cells // 128), 128),
    "suppress": lambda cells: (1, 512),
}


def install_kernels(gpu):
    """Let a `FakeGpu` run the kernels of the project."""
    gpu.kernels["fetch"] = run_fetch
    gpu.kernels["preprocess"] = run_preprocess
    gpu.kernels["convolve"] = run_convolve
    for name in DECODE_GRIDS:
        gpu.kernels[name] = _decode_kernel(name)


def run_fetch(gpu, grid, block, packed):
    job = FetchJob.from_buffer_copy(packed)
    assert (grid[1:], block) == ((1, 1), (256, 1, 1))
    assert grid[0] * block[0] >= job.row_count * job.pieces
    cell = FrameCell.from_buffer_copy(gpu.view(job.frame, ctypes.sizeof(FrameCell)))
    assert cell.pixels % 16 == cell.source % 16
    source, pixels = (gpu.view(at, 1).ctypes.data for at in (cell.source, cell.pixels))
    there = FrameCell(pixels, source, cell.ticket)
    job.frame, job.rows = ctypes.addressof(there), gpu.view(job.rows, 4).ctypes.data
    kernels_on_host.load("fetch").fetch(ctypes.byref(job), grid[0], 0)


def run_preprocess(gpu, grid, block, packed):
    job = PreprocessJob.from_buffer_copy(packed)
    tiles = -(-job.width // TILE[0]), -(-job.height // TILE[1])
    assert (grid, block) == ((*tiles, 1), (256, 1, 1))

    def at(address, nbytes=1):
        return gpu.view(address, nbytes).ctypes.data if address else 0

    cell = FrameCell.from_buffer_copy(gpu.view(job.frame, ctypes.sizeof(FrameCell)))
    pixels = FrameCell(at(cell.pixels), 0, cell.ticket)
    job.frame, job.ticket = ctypes.addressof(pixels), at(job.ticket, 8)
    job.out = at(job.out, 3 * job.width * job.height)
    for plane in job.planes:
        for name in ("columns", "rows", "xy", "fraction"):
            setattr(plane, name, at(getattr(plane, name)))
    kernels_on_host.load("preprocess").preprocess(ctypes.byref(job), *tiles, 0)


def run_convolve(gpu, grid, block, packed):
    job = LaunchJob.from_buffer_copy(packed)
    assert (grid[1:], block) == ((1, 1), (THREADS, 1, 1))
    for layer in job.layers[: job.count]:
        for segment in layer.segments:
            segment.codes = _at(gpu, segment.codes)
        for name in ("weights", "parameters", "target", "output", "residual"):
            setattr(layer, name, _at(gpu, getattr(layer, name)))
    kernels_on_host.load("network").convolve(ctypes.byref(job), grid[0], 0)


def _at(gpu, address):
    return gpu.view(address, 1).ctypes.data if address else 0


def _decode_kernel(name):
    def run(gpu, grid, block, packed):
        job = DecodeJob.from_buffer_copy(packed)
        blocks, threads = DECODE_GRIDS[name](job.cells)
        assert (grid, block) == ((blocks, 1, 1), (threads, 1, 1))

        def at(address, nbytes):
            return gpu.view(address, nbytes).ctypes.data

        for level in job.levels[: job.level_count]:
            cells = level.rows * level.columns
            level.boxes = at(level.boxes, 16 * job.reg_max * cells)
            level.classes = at(level.classes, 4 * job.classes * cells)
        job.keys, job.labels = at(job.keys, 8 * job.cells), at(job.labels, 4 * job.cells)
        job.state = at(job.state, ctypes.sizeof(DecodeState))
        job.result = at(job.result, ctypes.sizeof(DecodeResult))
        getattr(kernels_on_host.load("decode"), name)(ctypes.byref(job), blocks, 0)

    return run

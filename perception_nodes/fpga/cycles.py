"""How long an operation takes, told from its sizes."""

from perception_nodes.core.engine import LayerCost
from perception_nodes.fpga.layout import BEAT_BYTES, LANES, PARAMETER_BYTES, SMALLEST_TILE
from perception_nodes.fpga.lower import Operation
from perception_nodes.fpga.program import Geometry


def vectors(operation: Operation, geometry: Geometry) -> int:
    """Vectors of an operation's result; the last one of a line may be part empty."""
    return operation.out_height * -(-operation.out_width // geometry.pixels(operation.wide))


def tile_of(operation: Operation, geometry: Geometry) -> int:
    """Vectors in a tile: as many as there are in the fewest tiles, all of about one size."""
    total = vectors(operation, geometry)
    tiles = -(-total // geometry.tile)
    return max(-(-total // tiles), SMALLEST_TILE)


def convolve_cost(operation: Operation, geometry: Geometry, wait: bool) -> LayerCost:
    """What a CONVOLVE descriptor takes."""
    layer = operation.layer
    pixels = operation.out_height * operation.out_width
    out, height, width, channels = operation.weight.shape
    at_once = 2 * LANES if operation.wide else LANES
    steps = height * width * channels // LANES
    passes = out // at_once
    tile = tile_of(operation, geometry)
    tiles = -(-vectors(operation, geometry) // tile)
    cycles = passes * steps * vectors(operation, geometry)
    real = min(out, len(layer.weight) - LANES * operation.output_group)
    macs = pixels * real * operation.products
    return LayerCost(
        name=layer.name,
        mode="wide" if operation.wide else "narrow",
        channels=f"{layer.weight.shape[1]} -> {real}",
        size=f"{operation.out_width}x{operation.out_height}",
        kernel=f"{height}x{width}" + (f"/{layer.stride}" if layer.stride > 1 else ""),
        macs=macs,
        cycles=cycles,
        bytes_read=passes * steps * tiles * at_once * LANES + out // LANES * PARAMETER_BYTES,
        bytes_written=0 if operation.target else 4 * real * pixels,
        utilisation=macs / (cycles * geometry.blocks * LANES * LANES),
    )


def load_cost(width: int, height: int, name: str) -> LayerCost:
    """What a LOAD descriptor takes: the image comes in at a beat a cycle."""
    size = width * height * 3
    return LayerCost(
        name=name,
        mode="load",
        channels="3",
        size=f"{width}x{height}",
        kernel="",
        macs=0,
        cycles=size // BEAT_BYTES,
        bytes_read=size,
        bytes_written=0,
        utilisation=0.0,
    )

"""The compiler: from an integer network to a program of the engine."""

from collections.abc import Sequence
from dataclasses import replace

from perception_nodes.core.integer import Network
from perception_nodes.core.tensor_graph import build_graph
from perception_nodes.fpga import encode
from perception_nodes.fpga.allocate import allocate, in_place, lifetimes
from perception_nodes.fpga.cycles import load_cost, program_costs, tile_of
from perception_nodes.fpga.layout import DESCRIPTOR_BYTES
from perception_nodes.fpga.lower import Lowered, lower
from perception_nodes.fpga.program import Geometry, Output, Program, aligned
from perception_nodes.fpga.schedule import depends, schedule


def compile_network(network: Network, geometry: Geometry) -> Program:
    """Compile a network.

    Args:
        network: a network with 8-bit weights.
        geometry: geometry of the engine that will run it.

    Returns:
        The program; its outputs are in the order of `network.fractions`.

    Raises:
        BackendError: the engine does not support an operator, a size or a weight, or the network
            does not fit into its activation memory.
    """
    lowered = lower(build_graph(network))
    lowered = replace(lowered, operations=schedule(lowered.operations))
    times = lifetimes(lowered.buffers, lowered.operations)
    replaced = in_place(lowered.buffers, lowered.operations, times)
    bases, rows = allocate(lowered.buffers, times, geometry.rows, replaced)
    return assemble(network, lowered, bases, rows, geometry)


def assemble(
    network: Network, lowered: Lowered, bases: Sequence[int], rows: int, geometry: Geometry
) -> Program:
    """Assemble a program from operations and addresses.

    Args:
        network: the network.
        lowered: the network as operations.
        bases: first row of every buffer.
        rows: total number of rows used.
        geometry: geometry of the engine.
    """
    outputs = place_outputs(network, lowered)
    image = lowered.buffers[0]
    descriptors = [
        encode.load_descriptor(
            lowered.folded, network.width, network.height, image, bases[0], network.image
        )
    ]
    operations = lowered.operations
    count = 1 + len(operations)
    before = [None, *operations[:-1]]
    waits = [b is not None and depends(o, b) for o, b in zip(operations, before, strict=True)]
    records = [encode.parameters(operation) for operation in operations]
    weights = [encode.weights(operation) for operation in operations]
    parameters_offset = count * DESCRIPTOR_BYTES
    weights_begin = weights_offset = aligned(parameters_offset + sum(map(len, records)))
    for operation, wait, record, weight in zip(operations, waits, records, weights, strict=True):
        descriptors.append(
            encode.convolve_descriptor(
                operation,
                lowered.buffers,
                bases,
                outputs.get(operation.layer.target),
                tile_of(operation, geometry),
                wait,
                weights_offset,
                parameters_offset,
            )
        )
        parameters_offset += len(record)
        weights_offset += len(weight)
    head = b"".join([*descriptors, *records])
    return Program(
        geometry=geometry,
        width=network.width,
        height=network.height,
        descriptors=count,
        content=b"".join([head.ljust(weights_begin, b"\0"), *weights]),
        outputs=tuple(outputs.values()),
        rows=rows,
        layers=(
            load_cost(network.width, network.height, network.image),
            *program_costs(operations, waits, geometry),
        ),
    )


def place_outputs(network: Network, lowered: Lowered) -> dict[str, Output]:
    """Place the network's outputs in output memory, one behind the other."""
    outputs, offset = {}, 0
    for name, fraction in network.fractions.items():
        tensor = lowered.outputs[name]
        size = (tensor.channels, tensor.height, tensor.width)
        outputs[name] = output = Output(name, *size, fraction, offset)
        offset = output.end
    return outputs

"""The order of operations: if possible, an operation does not directly follow one that it reads.

The engine begins an operation while the last results of the one before are still on their way to
activation memory. An operation that reads them has to wait for that; if another operation runs in
between, nothing waits.
"""

from collections.abc import Sequence

from perception_nodes.core.places import Place
from perception_nodes.fpga.lower import Operation


def depends(operation: Operation, before: Operation) -> bool:
    """Whether an operation reads what another one writes."""
    written = before.target
    if written is None:
        return False
    read = [*operation.segments, *([operation.residual] if operation.residual else [])]
    return any(_intersect(place, written) for place in read)


def schedule(operations: Sequence[Operation]) -> list[Operation]:
    """Reorder operations by list scheduling, with their given order as the priority.

    Every operation still comes after all operations whose results it reads. There are no other
    constraints, because buffers have no addresses yet.
    """
    left = list(range(len(operations)))
    needs = [
        {n for n in range(number) if depends(operation, operations[n])}
        for number, operation in enumerate(operations)
    ]
    order: list[int] = []
    while left:
        done = set(order)
        ready = [number for number in left if needs[number] <= done]
        free = [number for number in ready if not order or order[-1] not in needs[number]]
        chosen = (free or ready)[0]
        order.append(chosen)
        left.remove(chosen)
    return [operations[number] for number in order]


def _intersect(one: Place, other: Place) -> bool:
    apart = one.group + one.groups <= other.group or other.group + other.groups <= one.group
    return one.buffer == other.buffer and not apart

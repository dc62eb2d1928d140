"""The order of operations: one that needs another's result comes, where it can, not right behind.

The engine begins an operation while the last results of the one before are still on their way to
activation memory. One that reads them has to wait; any other put between costs nothing.
"""

from collections.abc import Sequence

from perception_nodes.fpga.lower import Operation, Place


def depends(operation: Operation, before: Operation) -> bool:
    """Whether an operation reads what another writes."""
    written = before.target
    if written is None:
        return False
    read = [*operation.segments, *([operation.residual] if operation.residual else [])]
    return any(_intersect(place, written) for place in read)


def schedule(operations: Sequence[Operation]) -> list[Operation]:
    """Reorder operations by list scheduling, their given order being the priority.

    Every operation still comes after all whose results it reads; buffers are not placed yet, so
    nothing else ties them.
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

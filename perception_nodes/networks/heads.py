"""Which head a network has: by the shapes of its outputs, its operators and its metadata."""

from perception_nodes.networks.cell_heads import (
    Anchors,
    Grid,
    NanodetPlus,
    Yolov6,
    YoloxDecoded,
    YoloxRaw,
)
from perception_nodes.networks.exported import ExportedNetwork, Head
from perception_nodes.networks.model import ModelError
from perception_nodes.networks.object_heads import (
    DetrObjects,
    DetrQueries,
    ObjectRows,
    UltralyticsDetr,
    UltralyticsDetrObjects,
)

HEADS: dict[str, Head] = {
    one.name: one
    for one in (
        *(Grid(), ObjectRows(), Anchors(), YoloxDecoded(), YoloxRaw(), Yolov6()),
        *(NanodetPlus(), DetrObjects(), DetrQueries(), UltralyticsDetr()),
        UltralyticsDetrObjects(),
    )
}
OF_ULTRALYTICS = Grid, ObjectRows, UltralyticsDetr


def is_of_ultralytics(exported: ExportedNetwork) -> bool:
    """Whether Ultralytics exported it; its networks all expect the same of their pixels."""
    return exported.facts.get("author", "").lower() == "ultralytics"


def recognise(exported: ExportedNetwork, wanted: str = "", classes: int | None = None) -> Head:
    """The head of a network.

    Args:
        exported: the network.
        wanted: its name, if the user gave one.
        classes: number of its class names, if they are known; it decides if several heads fit.

    Raises:
        ModelError: none fits, or several do and the user must say which.
    """
    said = ", ".join(f"{name} {list(shape)}" for name, shape in exported.outputs.items())
    sized = f"{said} at {exported.width}x{exported.height}"
    fitting = [head for head in HEADS.values() if head.classes(exported) is not None]
    if is_of_ultralytics(exported) and not wanted:
        fitting = [head for head in fitting if isinstance(head, OF_ULTRALYTICS)]
    if wanted:
        if wanted not in HEADS:
            raise ModelError(f"--head {wanted} is unknown; known are {', '.join(HEADS)}")
        if HEADS[wanted] not in fitting:
            others = ", ".join(head.name for head in fitting) or "none"
            raise ModelError(
                f"{exported.path} has the outputs {sized}, which is not the head {wanted}; "
                f"fitting are: {others}"
            )
        return HEADS[wanted]
    if not fitting:
        known = "; ".join(f"{head.name} ({head.title})" for head in HEADS.values())
        raise ModelError(
            f"{exported.path} has the outputs {sized}, which is no head of a detector that is "
            f"known here: {known}. Export the detector with one of them"
        )
    if len(fitting) > 1 and classes is not None:
        # A head that leaves the number of classes open fits any.
        fitting = [head for head in fitting if head.classes(exported) in (0, classes)] or fitting
    if len(fitting) > 1:
        names = ", ".join(f"{head.name} ({head.title})" for head in fitting)
        raise ModelError(
            f"{exported.path} has the outputs {said}, which may be {names}: say which with --head"
        )
    return fitting[0]

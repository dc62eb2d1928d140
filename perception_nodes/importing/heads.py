"""Which head a network has: by the shapes of its outputs, its operators and its metadata."""

from perception_nodes.backends.model import ModelError
from perception_nodes.importing.cell_heads import (
    Anchors,
    Grid,
    NanodetPlus,
    Yolov6,
    YoloxDecoded,
    YoloxRaw,
)
from perception_nodes.importing.head import Head
from perception_nodes.importing.object_heads import (
    DetrObjects,
    DetrQueries,
    Objects,
    UltralyticsDetr,
)
from perception_nodes.importing.source import Source

HEADS: dict[str, Head] = {
    one.name: one
    for one in (
        *(Grid(), Objects(), Anchors(), YoloxDecoded(), YoloxRaw(), Yolov6()),
        *(NanodetPlus(), DetrObjects(), DetrQueries(), UltralyticsDetr()),
    )
}


def recognise(source: Source, wanted: str = "", classes: int | None = None) -> Head:
    """The head of a network.

    Args:
        source: the network.
        wanted: its name, if the user gave one.
        classes: number of names of its classes, if they are known; it decides where several fit.

    Raises:
        ModelError: none fits, or several do and the user must say which.
    """
    said = ", ".join(f"{name} {list(shape)}" for name, shape in source.outputs.items())
    fitting = [head for head in HEADS.values() if head.classes(source) is not None]
    if source.facts.get("author", "").lower() == "ultralytics" and not wanted:
        likely = _of_ultralytics(source)
        fitting = [head for head in fitting if head.name in likely]
    if wanted:
        if wanted not in HEADS:
            raise ModelError(f"--head {wanted} is unknown; known are {', '.join(HEADS)}")
        if HEADS[wanted] not in fitting:
            others = ", ".join(head.name for head in fitting) or "none"
            raise ModelError(
                f"{source.path} has the outputs {said} at {source.width}x{source.height}, which is "
                f"not the head {wanted}; fitting are: {others}"
            )
        return HEADS[wanted]
    if not fitting:
        known = "; ".join(f"{head.name} ({head.title})" for head in HEADS.values())
        raise ModelError(
            f"{source.path} has the outputs {said} at {source.width}x{source.height}, which is no "
            f"head of a detector that is known here: {known}. Export the detector with one of them"
        )
    if len(fitting) > 1 and classes is not None:
        # One that leaves the number open fits any.
        fitting = [head for head in fitting if head.classes(source) in (0, classes)] or fitting
    if len(fitting) > 1:
        names = ", ".join(f"{head.name} ({head.title})" for head in fitting)
        raise ModelError(
            f"{source.path} has the outputs {said}, which may be {names}: say which with --head"
        )
    return fitting[0]


def _of_ultralytics(source: Source) -> set[str]:
    """Names of the heads that a network of Ultralytics may have by its metadata."""
    decoder = source.facts.get("head", "").lower()
    said = decoder + source.facts.get("description", "").lower().replace("-", "")
    if "rtdetr" in said:
        return {UltralyticsDetr.name}
    arguments = source.fact("args")
    nms = isinstance(arguments, dict) and arguments.get("nms")
    if "detect" in decoder or "yolo" in said or nms or source.fact("end2end") is True:
        return {Grid.name, Objects.name}
    # Older versions describe a detector of one's own by its file: "best model".
    return {Grid.name, Objects.name, UltralyticsDetr.name}

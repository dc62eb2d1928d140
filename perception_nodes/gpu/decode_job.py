"""Decoding a network's head on the GPU: arguments and result of `kernels/decode.cu`."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from perception_nodes.core.decode import AbsurdOutput, DecodeSettings
from perception_nodes.core.frame import MAX_DETECTIONS, Detections, detections_in
from perception_nodes.core.structures import fields
from perception_nodes.preprocess.placement import Placement

MAX_LEVELS = 5
MAX_CANDIDATES = 512
ABSURD_BOX = 1 << 31


@dataclass(frozen=True)
class Head:
    """Sizes of a network's head.

    Attributes:
        width, height: size of the network's input, pixels.
        strides: for each level, the size of a cell in input pixels.
        reg_max: number of bins for each side of a box.
        classes: number of classes.
    """

    width: int
    height: int
    strides: tuple[int, ...]
    reg_max: int
    classes: int

    def __post_init__(self) -> None:
        """Refuse a head that the kernel has no room for."""
        if len(self.strides) > MAX_LEVELS:
            raise ValueError(f"a head of {len(self.strides)} levels; the GPU decodes {MAX_LEVELS}")

    def size(self, stride: int) -> tuple[int, int]:
        """Rows and columns of the level with this stride."""
        return self.height // stride, self.width // stride

    @property
    def cells(self) -> int:
        """Number of cells in all levels."""
        return sum(rows * columns for rows, columns in map(self.size, self.strides))


class LevelJob(ctypes.Structure):
    """`Level` of `decode.cu`."""

    _fields_ = fields("uint64 boxes, classes; int32 rows, columns, stride, first_cell")


class PlacementJob(ctypes.Structure):
    """`Placement` of `decode.cu`."""

    _fields_ = fields(
        "double pad[2], scale[2], size[2], matrix[4], rectified[4], distortion[8], fold_radius; "
        "int32 lens, fisheye"
    )


class BoxCandidate(ctypes.Structure):
    """`Candidate` of `decode.cu`: a box before suppression."""

    _fields_ = fields("float box[4], logit; uint32 label")


class DecodeState(ctypes.Structure):
    """`State` of `decode.cu`; it must be zeroed before the first frame."""

    _fields_ = [
        *fields("uint32 found, absurd, reserved[2]; uint64 ticket"),
        ("candidates", BoxCandidate * MAX_CANDIDATES),
    ]


class DecodeResult(ctypes.Structure):
    """`Result` of `decode.cu`: everything that comes back from the device.

    Attributes:
        ticket: ticket of the frame that the boxes belong to.
        count: number of boxes.
        found: number of cells with an object above the threshold.
        entered: number of these, the best ones, that entered suppression.
        kept: number of these that suppression kept. The best `MAX_DETECTIONS` of them are the
            boxes here, without those that lie entirely in the grey border.
        absurd: bits that say which logits are absurd, see `check`.
    """

    _fields_ = fields(
        "uint64 ticket; int32 count, found, entered, kept; uint32 absurd, reserved; "
        f"float boxes[{4 * MAX_DETECTIONS}], scores[{MAX_DETECTIONS}]; "
        f"uint32 classes[{MAX_DETECTIONS}]"
    )

    @property
    def more(self) -> bool:
        """Whether objects may have been dropped for lack of room, before or after suppression."""
        return bool(self.found > self.entered or self.kept > MAX_DETECTIONS)

    def check(self, strides: Sequence[int]) -> None:
        """Check that the network's output can be right.

        Raises:
            AbsurdOutput: a class logit, or a box logit of an object, is not a number below 1000.
        """
        for level, stride in enumerate(strides):
            if self.absurd >> level & 1:
                raise AbsurdOutput(f"class logits at stride {stride} are not numbers below 1000")
        if self.absurd & ABSURD_BOX:
            raise AbsurdOutput("box logits of an object are not numbers below 1000")

    def detections(self) -> Detections:
        """A copy of the boxes, in source pixels."""
        return detections_in(self, self.more)


class DecodeJob(ctypes.Structure):
    """`Job` of `decode.cu`."""

    _fields_ = [
        ("levels", LevelJob * MAX_LEVELS),
        ("placement", PlacementJob),
        *fields("uint64 state, keys, labels, result; int32 level_count, cells, classes, reg_max"),
        *fields("float logit_threshold, iou_threshold"),
    ]


def launches_of(head: Head) -> list[tuple[str, int, int]]:
    """The kernels in their order: name, number of blocks, threads per block."""
    find_threads = decode_threads = 128
    return [
        ("find_candidates", -(-head.cells // find_threads), find_threads),
        ("decode_boxes", -(-4 * head.cells // decode_threads), decode_threads),
        ("suppress", 1, MAX_CANDIDATES),
    ]


def build_decode_job(
    head: Head,
    settings: DecodeSettings,
    placement: Placement,
    tensors: Sequence[tuple[int, int]],
    state: int,
    scratch: int,
    result: int,
) -> DecodeJob:
    """Build the kernels' argument.

    Args:
        head: sizes of the network's head.
        settings: thresholds of the decoder.
        placement: placement of the frames in the network's input.
        tensors: for each level the addresses of its box and class logits, float32.
        state: address of a `DecodeState`.
        scratch: address of twelve bytes for each cell, aligned to eight.
        result: address of a `DecodeResult`.

    """
    job = DecodeJob(state=state, keys=scratch, labels=scratch + 8 * head.cells, result=result)
    first = 0
    for level, stride, (boxes, classes) in zip(job.levels, head.strides, tensors, strict=False):
        rows, columns = head.size(stride)
        level.boxes, level.classes = boxes, classes
        level.rows, level.columns, level.stride, level.first_cell = rows, columns, stride, first
        first += rows * columns
    job.placement = _placement_job(placement)
    job.level_count, job.cells = len(head.strides), head.cells
    job.classes, job.reg_max = head.classes, head.reg_max
    job.logit_threshold = settings.logit_threshold
    job.iou_threshold = settings.iou_threshold
    return job


def _placement_job(placement: Placement) -> PlacementJob:
    box, lens = placement.letterbox, placement.lens
    job = PlacementJob()
    job.pad[:] = box.pad_x, box.pad_y
    job.scale[:] = box.scale_x, box.scale_y
    job.size[:] = placement.source_width, placement.source_height
    if lens is not None:
        job.lens, job.fisheye = 1, lens.fisheye
        job.matrix[:] = lens.matrix
        job.distortion[:] = lens.distortion
        job.rectified[:] = placement.rectified
        job.fold_radius = lens.fold_radius
    return job

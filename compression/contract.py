"""What a road model promises to the run time: its classes, its input, its outputs."""

CLASS_NAMES = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "bus",
    "truck",
    "traffic light",
    "stop sign",
)
COCO_CLASS_IDS = (0, 1, 2, 3, 5, 7, 9, 11)
"""Where the classes above stand among COCO's 80."""

INPUT_NAME = "image"

STRIDES = (8, 16, 32)
REG_MAX = 16
BOX_NAMES = tuple(f"box_{stride}" for stride in STRIDES)
CLASS_OUTPUT_NAMES = tuple(f"class_{stride}" for stride in STRIDES)
OUTPUT_NAMES = BOX_NAMES + CLASS_OUTPUT_NAMES

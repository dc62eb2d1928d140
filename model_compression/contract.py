"""What a model of ours promises to the run time: its input, its outputs."""

INPUT_NAME = "image"

STRIDES = (8, 16, 32)
REG_MAX = 16
BOX_NAMES = tuple(f"box_{stride}" for stride in STRIDES)
CLASS_OUTPUT_NAMES = tuple(f"class_{stride}" for stride in STRIDES)
OUTPUT_NAMES = BOX_NAMES + CLASS_OUTPUT_NAMES

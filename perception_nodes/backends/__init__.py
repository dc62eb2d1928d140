"""Inference runtimes behind one contract, one file each, imported when first used."""

import sys

# OpenVINO does without its converter, which has telemetry and takes two thirds of the import.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

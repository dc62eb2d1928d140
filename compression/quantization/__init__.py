"""Quantization to 8 bits: one table of ranges, two dialects, the same integers on every device."""

from compression.quantization.calibrate import calibrate
from compression.quantization.emit import emit, float_of
from compression.quantization.ranges import measure
from compression.quantization.table import RangeTable, read_table, write_table

__all__ = [
    "RangeTable",
    "calibrate",
    "emit",
    "float_of",
    "measure",
    "read_table",
    "write_table",
]

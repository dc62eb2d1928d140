"""Quantization to 8 bits: one table of ranges, two dialects, the same integers on every device."""

from model_compression.quantization.calibrate import calibrate
from model_compression.quantization.emit import emit, float_of
from model_compression.quantization.ranges import measure
from model_compression.quantization.table import RangeTable, read_table, write_table

__all__ = ["RangeTable", "calibrate", "emit", "float_of", "measure", "read_table", "write_table"]

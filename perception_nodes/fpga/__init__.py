"""The FPGA engine: networks compiled for it, and its driver. Its RTL is in `fpga/`."""

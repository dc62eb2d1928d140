"""The FPGA engine: the compiler of networks for it, and its driver. Its RTL is in `fpga/`."""

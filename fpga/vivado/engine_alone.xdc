# For timing.tcl alone: a clock that comes over a global buffer, as it does in the block design. In
# the block design the clock is constrained by the processing system, and nothing else is asked:
# there is one clock and no pin.
set_property HD.CLK_SRC BUFGCE_X0Y0 [get_ports aclk]

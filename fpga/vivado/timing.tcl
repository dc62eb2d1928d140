# The engine alone, placed and routed with no pins: does it meet its clock, and what does it take?
#
#   vivado -mode batch -source fpga/vivado/timing.tcl -tclargs blocks=2 clock_mhz=250

source [file dirname [file normalize [info script]]]/settings.tcl
file mkdir $out
read_verilog -sv [lsearch -all -inline $sources *.sv]
read_verilog [lsearch -all -inline $sources *.v]
# Synthesis needs the clock too. It comes over a global buffer, as it does in the block design, where
# the processing system constrains it.
set constraints [open $out/clock.xdc w]
puts $constraints "create_clock -name aclk -period [expr {1000.0 / $chosen(clock_mhz)}] \[get_ports aclk\]"
puts $constraints "set_property HD.CLK_SRC BUFGCE_X0Y0 \[get_ports aclk\]"
close $constraints
read_xdc -mode out_of_context $out/clock.xdc
synth_design -top engine_wrapper -part $part -mode out_of_context -flatten_hierarchy rebuilt \
    -generic BLOCKS=$chosen(blocks) -generic CLOCK_MHZ=$chosen(clock_mhz)
report_utilization -hierarchical -file $out/utilization_synthesized.txt
opt_design
place_design
phys_opt_design
route_design
phys_opt_design
report_utilization -hierarchical -file $out/utilization.txt
report_timing_summary -delay_type min_max -max_paths 20 -file $out/timing.txt
report_methodology -file $out/methodology.txt
set setup [get_property SLACK [get_timing_paths -setup]]
set hold [get_property SLACK [get_timing_paths -hold]]
puts "worst slack at $chosen(clock_mhz) MHz: setup $setup ns, hold $hold ns; reports are in $out"
if {$setup < 0 || $hold < 0} {
    exit 1
}

# The block design and the bitstream for a KV260: the processing system, the engine, one clock. The
# engine's interrupt is not connected: the driver looks at its status (docs/fpga.md).
#
#   vivado -mode batch -source fpga/vivado/build.tcl -tclargs blocks=2 clock_mhz=250

source [file dirname [file normalize [info script]]]/settings.tcl
set board [lindex [lsort [get_board_parts -quiet xilinx.com:kv260_som:part0:*]] end]
if {$board eq ""} {
    error "the board files of the KV260 are not installed: xhub::install \
[get_property -quiet NAME [xhub::get_xitems -quiet *kv260*]], or Tools > Vivado Store > Boards"
}

create_project -force $name $out -part $part
set_property board_part $board [current_project]
add_files -norecurse $sources
update_compile_order -fileset sources_1

create_bd_design perception
set ps [create_bd_cell -type ip -vlnv xilinx.com:ip:zynq_ultra_ps_e ps]
apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset 1} $ps
# HPM0 reaches the registers, HP0 with all of its 128 bits is reached by the engine.
set_property -dict [list \
    CONFIG.PSU__USE__M_AXI_GP0 1 \
    CONFIG.PSU__MAXIGP0__DATA_WIDTH 32 \
    CONFIG.PSU__USE__M_AXI_GP1 0 \
    CONFIG.PSU__USE__M_AXI_GP2 0 \
    CONFIG.PSU__USE__S_AXI_GP2 1 \
    CONFIG.PSU__SAXIGP2__DATA_WIDTH 128 \
    CONFIG.PSU__FPGA_PL0_ENABLE 1 \
    CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $chosen(clock_mhz) \
] $ps

# The driver asks PYNQ for the name engine_0 (perception_nodes/fpga/board.py).
set engine [create_bd_cell -type module -reference engine_wrapper engine_0]
set_property -dict [list \
    CONFIG.BLOCKS $chosen(blocks) \
    CONFIG.CLOCK_MHZ $chosen(clock_mhz) \
] $engine
set reset [create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset]
set control [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect control]
set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} $control
set memory [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect memory]
set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} $memory

set clock [get_bd_pins $ps/pl_clk0]
foreach pin [list \
    $ps/maxihpm0_fpd_aclk $ps/saxihp0_fpd_aclk $engine/aclk $reset/slowest_sync_clk \
    $control/aclk $memory/aclk \
] {
    connect_bd_net $clock [get_bd_pins $pin]
}
connect_bd_net [get_bd_pins $ps/pl_resetn0] [get_bd_pins $reset/ext_reset_in]
foreach pin [list $engine/aresetn $control/aresetn $memory/aresetn] {
    connect_bd_net [get_bd_pins $reset/peripheral_aresetn] [get_bd_pins $pin]
}
connect_bd_intf_net [get_bd_intf_pins $ps/M_AXI_HPM0_FPD] [get_bd_intf_pins $control/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins $control/M00_AXI] [get_bd_intf_pins $engine/s_axi]
connect_bd_intf_net [get_bd_intf_pins $engine/m_axi] [get_bd_intf_pins $memory/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins $memory/M00_AXI] [get_bd_intf_pins $ps/S_AXI_HP0_FPD]

assign_bd_address
# Of what lies behind HP0 the engine is to reach memory alone.
foreach segment [get_bd_addr_segs -of_objects [get_bd_addr_spaces $engine/m_axi]] {
    if {![string match *DDR* $segment]} {
        exclude_bd_addr_seg $segment
    }
}
validate_bd_design
save_bd_design

set design [get_files perception.bd]
set_property synth_checkpoint_mode None $design
generate_target all $design
set wrapper [make_wrapper -files $design -top]
add_files -norecurse $wrapper
set_property top perception_wrapper [current_fileset]
set_property strategy Performance_ExplorePostRoutePhysOpt [get_runs impl_1]
launch_runs impl_1 -to_step write_bitstream -jobs [expr {max(1, [llength [glob -nocomplain /sys/devices/system/cpu/cpu\[0-9\]*]])}]
wait_on_run impl_1
if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} {
    error "no bitstream: see [get_property DIRECTORY [get_runs impl_1]]/runme.log"
}

open_run impl_1
report_timing_summary -delay_type min_max -file $out/timing.txt
report_utilization -hierarchical -file $out/utilization.txt
foreach {kind figure} {setup STATS.WNS hold STATS.WHS} {
    set slack($kind) [get_property $figure [get_runs impl_1]]
    if {$slack($kind) < 0} {
        error "the clock of $chosen(clock_mhz) MHz is missed by [expr {-$slack($kind)}] ns ($kind): \
see $out/timing.txt, or for setup build with a lower clock_mhz="
    }
}
# PYNQ wants both under one name.
file copy -force [get_property DIRECTORY [get_runs impl_1]]/perception_wrapper.bit $out/$name.bit
file copy -force [lindex [glob $out/$name.gen/sources_1/bd/perception/hw_handoff/perception.hwh] 0] \
    $out/$name.hwh
puts "made $out/$name.bit and .hwh; slack: setup $slack(setup) ns, hold $slack(hold) ns"

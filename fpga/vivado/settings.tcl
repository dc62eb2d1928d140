# What both scripts share: the part, the sources, the arguments.
#
#   -tclargs blocks=2 clock_mhz=250

set part xck26-sfvc784-2LV-c
set here [file dirname [file normalize [info script]]]
set top [file normalize $here/../..]
set sources [concat \
    $top/fpga/rtl/layout.sv \
    [lsearch -all -inline -not [lsort [glob $top/fpga/rtl/*.sv]] */layout.sv] \
    $here/engine_wrapper.v]

array set chosen {blocks 2 clock_mhz 250}
foreach argument $argv {
    lassign [split $argument =] name value
    if {![info exists chosen($name)] || ![string is integer -strict $value]} {
        error "$argument: known are [join [array names chosen] =, ]=, each with a whole number"
    }
    set chosen($name) $value
}
if {$chosen(blocks) ni {2 4}} {
    error "blocks=$chosen(blocks): there are builds of 2 and of 4"
}
set name perception_[expr {256 * $chosen(blocks)}]
set out $top/build/vivado/$name

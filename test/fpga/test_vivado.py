"""The Vivado scripts in plain Tcl, with Vivado's commands recorded instead of executed."""

import re

import pytest

COMMANDS = (
    "add_files apply_bd_automation assign_bd_address connect_bd_intf_net connect_bd_net "
    "create_bd_design create_clock create_project exclude_bd_addr_seg generate_target "
    "launch_runs open_run opt_design phys_opt_design place_design read_verilog read_xdc "
    "report_methodology report_timing_summary report_utilization route_design save_bd_design "
    "set_property synth_design update_compile_order validate_bd_design wait_on_run"
)
STUBS = """
foreach name $COMMANDS { proc $name args "lappend ::calls \\[linsert \\$args 0 $name\\]" }
proc create_bd_cell args { lappend ::calls [linsert $args 0 create_bd_cell]; lindex $args end }
foreach name {get_bd_pins get_bd_intf_pins get_files get_runs get_ports get_bd_addr_spaces} {
    proc $name name {return $name}
}
foreach name {current_project current_fileset} { proc $name args {} }
proc get_board_parts args {
    return {xilinx.com:kv260_som:part0:1.3 xilinx.com:kv260_som:part0:1.4}
}
proc get_bd_addr_segs args { return {/ps/SAXIGP2/HP0_DDR_LOW /ps/SAXIGP2/HP0_QSPI} }
proc make_wrapper args { return wrapper.v }
rename file real_file
proc file args {
    if {[lindex $args 0] ni {mkdir copy}} { return [uplevel 1 real_file $args] }
}
rename glob real_glob
proc glob args {
    if {[string match *.hwh [lindex $args end]]} { return made.hwh }
    uplevel 1 real_glob $args
}
proc get_property {name of} {
    if {$name eq "SLACK"} { return $::slack([lindex $of 0]) }
    dict get [list PROGRESS 100% STATS.WNS $::slack(-setup) STATS.WHS $::slack(-hold) \\
        DIRECTORY /nowhere] $name
}
proc get_timing_paths args { return $args }
rename open real_open
proc open {path mode} { real_open [file join $::folder [file tail $path]] $mode }
proc exit status { error "status $status" }
"""


@pytest.fixture
def script(root, tmp_path):
    """Runs a script; returns the calls, each a tuple of words. Files are written to tmp_path."""
    tkinter = pytest.importorskip("tkinter", reason="this Python has no Tcl (python3-tk)")

    def run(name, *arguments, setup=0.1, hold=0.01):
        tcl = tkinter.Tcl()
        tcl.wantobjects(False)
        tcl.setvar("COMMANDS", COMMANDS)
        tcl.eval(STUBS)
        tcl.setvar("argv", tcl.call("list", *arguments))
        tcl.setvar("calls", "")
        tcl.setvar("folder", str(tmp_path))
        tcl.setvar("slack(-setup)", str(setup))
        tcl.setvar("slack(-hold)", str(hold))
        path = root / "fpga/vivado" / name
        tcl.call("info", "script", str(path))
        tcl.call("source", str(path))
        calls = tcl.splitlist(tcl.getvar("calls"))
        return [tuple(tcl.splitlist(call)) for call in calls]

    return run


def test_every_interface_clock_and_reset_is_connected(script):
    calls = script("build.tcl")
    ends = {end for call in calls if call[0].startswith("connect_bd") for end in call[1:]}
    clocks = ("maxihpm0_fpd_aclk", "saxihp0_fpd_aclk")
    wanted = {f"ps/{pin}" for pin in (*clocks, "pl_clk0", "pl_resetn0")}
    wanted |= {"ps/M_AXI_HPM0_FPD", "ps/S_AXI_HP0_FPD"}
    wanted |= {f"engine_0/{pin}" for pin in ("aclk", "aresetn", "s_axi", "m_axi")}
    wanted |= {f"control/{pin}" for pin in ("aclk", "aresetn", "S00_AXI", "M00_AXI")}
    wanted |= {f"memory/{pin}" for pin in ("aclk", "aresetn", "S00_AXI", "M00_AXI")}
    wanted |= {f"reset/{pin}" for pin in ("slowest_sync_clk", "ext_reset_in", "peripheral_aresetn")}
    assert ends == wanted
    cells = {call[-1] for call in calls if call[0] == "create_bd_cell"}
    assert cells == {end.partition("/")[0] for end in wanted}
    assert ("exclude_bd_addr_seg", "/ps/SAXIGP2/HP0_QSPI") in calls
    assert not [c for c in calls if c[0] == "exclude_bd_addr_seg" and "DDR" in c[1]]


def test_all_sources_are_read_the_package_first(script, root):
    (read,) = (call for call in script("timing.tcl") if call[:2] == ("read_verilog", "-sv"))
    found = read[2].split()
    assert found[0].endswith("/layout.sv")
    assert {name.rpartition("/")[2] for name in found} == {
        path.name for path in (root / "fpga/rtl").glob("*.sv")
    }
    assert len(found) == len(set(found))


@pytest.mark.parametrize("argument", ["blocks=3", "blocks=two", "tiles=4", "fast"])
def test_wrong_arguments_are_named(script, argument):
    with pytest.raises(Exception, match=argument):
        script("timing.tcl", argument)


def test_the_larger_build_is_asked_for(script):
    calls = script("build.tcl", "blocks=4", "clock_mhz=200")
    words = [word for call in calls for word in call]
    assert any("CONFIG.BLOCKS 4" in word for word in words)
    assert any("PL0_REF_CTRL__FREQMHZ 200" in word for word in words)
    assert ("create_project", "-force", "perception_1024") == calls[0][:3]


@pytest.mark.parametrize(("clock_mhz", "period_ns"), [(250, "4.0"), (200, "5.0")])
def test_synthesis_knows_the_clock(script, tmp_path, clock_mhz, period_ns):
    commands = [call[0] for call in script("timing.tcl", f"clock_mhz={clock_mhz}")]
    assert commands.index("read_xdc") < commands.index("synth_design")
    text = (tmp_path / "clock.xdc").read_text()
    assert f"create_clock -name aclk -period {period_ns} [get_ports aclk]" in text


@pytest.mark.parametrize("name", ["timing.tcl", "build.tcl"])
@pytest.mark.parametrize("slack", [dict(setup=-0.2), dict(hold=-0.2)])
def test_a_clock_that_is_missed_is_an_error(script, name, slack):
    with pytest.raises(Exception, match="status 1|is missed by 0.2 ns"):
        script(name, **slack)


def test_the_bus_is_told_how_many_writes_are_open(root):
    """Vivado's interconnect takes two where nothing is declared."""
    wrapper = (root / "fpga/vivado/engine_wrapper.v").read_text()
    (declared,) = re.findall(r"NUM_WRITE_OUTSTANDING (\d+)", wrapper)
    writer = (root / "fpga/rtl/writer.sv").read_text()
    (limit,) = re.findall(r"int unsigned OPEN = (\d+)", writer)
    assert declared == limit

# The engine: lint, simulation, tests, synthesis. Included by the Makefile.

FPGA_BUILD := build/fpga
RTL := fpga/rtl/layout.sv $(filter-out fpga/rtl/layout.sv,$(sort $(wildcard fpga/rtl/*.sv)))
VERILATE := verilator --cc --top-module engine --prefix Vengine -O3 --x-assign fast --x-initial fast

.PHONY: fpga-sim fpga-lint

fpga-sim: $(FPGA_BUILD)/libengine_512.so $(FPGA_BUILD)/libengine_1024.so ## build the simulated engine, two minutes

fpga-lint: $(FPGA_BUILD)/verilator ## check the RTL with verilator -Wall, both builds
	verilator --lint-only -Wall --top-module engine -GBLOCKS=2 $(RTL)
	verilator --lint-only -Wall --top-module engine -GBLOCKS=4 $(RTL)

# A tool that Debian and Ubuntu have. TOOL is its name and that of its package.
define INSTALL
@command -v $(TOOL) > /dev/null \
    || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y --no-install-recommends $(TOOL); } \
    || { echo "$(TOOL) is needed; install it, e.g. sudo apt install $(TOOL)" >&2; exit 1; }
@mkdir -p $(dir $@)
@touch $@
endef

$(FPGA_BUILD)/verilator $(FPGA_BUILD)/yosys: TOOL = $(notdir $@)
$(FPGA_BUILD)/verilator $(FPGA_BUILD)/yosys:
	$(INSTALL)

# The MACs of a build are 256 a block.
$(FPGA_BUILD)/libengine_%.so: $(RTL) fpga/sim/engine_sim.cpp fpga/sim/engine_sim.h | $(FPGA_BUILD)/verilator
	@echo "Building the simulated engine of $* MACs, about a minute"
	@rm -rf $(FPGA_BUILD)/engine_$*
	$(VERILATE) -GBLOCKS=$$(($* / 256)) --Mdir $(FPGA_BUILD)/engine_$* -CFLAGS -fPIC $(RTL)
	$(MAKE) -s -C $(FPGA_BUILD)/engine_$* -f Vengine.mk OPT_FAST=-O2 OPT_SLOW=-O0 Vengine__ALL.a
	root=$$(verilator --getenv VERILATOR_ROOT)/include; \
	$(CXX) -shared -fPIC -O2 -std=c++17 -o $@ -I$(FPGA_BUILD)/engine_$* -Ifpga/sim \
	    -isystem $$root -isystem $$root/vltstd fpga/sim/engine_sim.cpp \
	    $(FPGA_BUILD)/engine_$*/Vengine__ALL.a $$root/verilated.cpp $$root/verilated_threads.cpp

# The engine: lint, simulation, tests, synthesis. Included by the Makefile.

FPGA_BUILD := build/fpga
RTL := fpga/rtl/layout.sv $(filter-out fpga/rtl/layout.sv,$(sort $(wildcard fpga/rtl/*.sv)))
# The wrapper's pin "interrupt" is a word of C++, which no C++ is made of here.
LINT := verilator --lint-only -Wall -Wno-SYMRSVDWORD --top-module engine_wrapper fpga/vivado/engine_wrapper.v
PROPERTIES := $(sort $(wildcard fpga/formal/*.sv))
# Every register and memory begins with a random value, as no circuit begins with zeros.
VERILATE := verilator --cc --top-module engine --prefix Vengine -O3 --x-assign unique --x-initial unique

COVERAGES := branches toggles

.PHONY: fpga-packages fpga-sim fpga-lint fpga-test fpga-coverage fpga-synth fpga-pnr fpga-formal fpga-mutants

fpga-sim: $(FPGA_BUILD)/libengine_512.so $(FPGA_BUILD)/libengine_1024.so ## build the simulated engine, two minutes

fpga-lint: $(FPGA_BUILD)/verilator ## check the RTL with verilator -Wall, both builds, as Vivado takes it
	$(LINT) -GBLOCKS=2 $(RTL)
	$(LINT) -GBLOCKS=4 $(RTL)

fpga-test: fpga-lint fpga-sim dev sample ## test the engine at length: random layers, faults, whole detectors
	FPGA_EXAMPLES=150 FPGA_FRAMES=100 $(BIN)/python -m pytest test/fpga $(ARGS)

# The larger build runs all that the smaller one does, and what two more blocks bring.
fpga-coverage: $(COVERAGES:%=$(FPGA_BUILD)/%/libengine_1024.so) dev ## tell which branches and bits of the RTL the tests use
	for coverage in $(COVERAGES); do \
	    rm -f $(FPGA_BUILD)/$$coverage/*.dat; \
	    FPGA_ENGINES=$(FPGA_BUILD)/$$coverage FPGA_EXAMPLES=25 $(BIN)/python -m pytest -q \
	        test/fpga/test_layers.py test/fpga/test_engine.py || exit 1; \
	done
	$(BIN)/python fpga/sim/coverage.py $(COVERAGES:%=$(FPGA_BUILD)/%) --least 95

fpga-synth: dev $(FPGA_BUILD)/yosys ## estimate with yosys what both builds take of a K26, some minutes
	$(BIN)/python fpga/synthesize.py $(FPGA_BUILD)

fpga-pnr: dev $(FPGA_BUILD)/yosys $(FPGA_BUILD)/nextpnr-ecp5 ## place and route parts of the RTL for an ECP5: how long are its paths?
	$(BIN)/python fpga/place_and_route.py $(FPGA_BUILD)/pnr

fpga-formal: $(PROPERTIES:fpga/formal/%.sv=$(FPGA_BUILD)/formal/%) ## prove the rules of the bus and of what moves data, for any input

# For so many cycles from reset.
CYCLES_fifo := 20
CYCLES_reader := 16
CYCLES_regions := 16
CYCLES_registers := 16
CYCLES_writer := 12
$(FPGA_BUILD)/formal/%: fpga/formal/%.sv $(RTL) | $(FPGA_BUILD)/yosys
	@mkdir -p $(@D)
	@echo "Proving the properties of $* for $(CYCLES_$*) cycles"
	@yosys -q -p "read_verilog -sv $(RTL); read_verilog -formal -sv $<; prep -flatten -top $*_properties; \
	    async2sync; formalff -clk2ff -ff2anyinit; setundef -undriven -anyseq; memory_map -formal; opt; \
	    techmap; opt -fast; dffunmap; aigmap; opt_clean; write_aiger -I -B -zinit -no-startoffset $@.aig"
	@yosys-abc -c "read_aiger $@.aig; fold; strash; bmc3 -F $(CYCLES_$*)" > $@.log
	@grep -q "No output asserted in $(CYCLES_$*) frames" $@.log || { tail -n 5 $@.log; exit 1; }
	@touch $@

fpga-mutants: dev $(TOOLS) ## change each assignment of the RTL once: do tests and proofs notice? An hour
	$(BIN)/python fpga/mutate.py $(FPGA_BUILD)/mutants $(ARGS)

# Tools that Debian and Ubuntu have, and the versions that are new enough.
VERSION_verilator := Verilator ([5-9]|[1-9][0-9])[.]
VERSION_yosys := Yosys (0[.][3-9][0-9]|[1-9])
VERSION_nextpnr-ecp5 := Version

TOOLS := $(addprefix $(FPGA_BUILD)/,verilator yosys nextpnr-ecp5)
fpga-packages: ## install what the other fpga targets need from Debian, as root; check what is there
	@lacks=""; for tool in $(notdir $(TOOLS)); do command -v $$tool > /dev/null || lacks="$$lacks $$tool"; done; \
	[ -z "$$lacks" ] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$lacks; }
	@$(MAKE) --no-print-directory $(TOOLS)

$(TOOLS): TOOL = $(notdir $@)
$(TOOLS):
	@command -v $(TOOL) > /dev/null \
	    || { echo "$(TOOL) is needed; install it: sudo make fpga-packages" >&2; exit 1; }
	@$(TOOL) --version 2>&1 | grep -Eq '$(VERSION_$(TOOL))' \
	    || { echo "$$($(TOOL) --version) is too old; Verilator 5 and Yosys 0.30 are needed" >&2; exit 1; }
	@mkdir -p $(@D)
	@touch $@

# What is built for a single run is compiled quickly: with -O2, counters take the compiler a quarter of an hour.
OPTIMIZE := -O2
$(COVERAGES:%=$(FPGA_BUILD)/%/libengine_1024.so): OPTIMIZE := -O1

# The MACs of a build are 256 a block.
define BUILD_ENGINE
@echo "Building the simulated engine of $* MACs, about a minute"
@rm -rf $(@D)/engine_$*
@mkdir -p $(@D)
$(VERILATE) -GBLOCKS=$$(($* / 256)) --Mdir $(@D)/engine_$* -CFLAGS -fPIC $(COVERAGE) $(RTL)
$(MAKE) -s -C $(@D)/engine_$* -f Vengine.mk OPT_FAST=$(OPTIMIZE) OPT_SLOW=-O0 Vengine__ALL.a
root=$$(verilator --getenv VERILATOR_ROOT)/include; \
$(CXX) -shared -fPIC -O2 -std=c++17 -o $@ -I$(@D)/engine_$* -Ifpga/sim $(if $(COVERAGE),-DVM_COVERAGE=1) \
    -isystem $$root -isystem $$root/vltstd fpga/sim/engine_sim.cpp $(@D)/engine_$*/Vengine__ALL.a \
    $$root/verilated.cpp $$root/verilated_threads.cpp $(if $(COVERAGE),$$root/verilated_cov.cpp)
endef

ENGINE_PARTS := $(RTL) fpga/sim/engine_sim.cpp fpga/sim/engine_sim.h

$(FPGA_BUILD)/libengine_%.so: $(ENGINE_PARTS) | $(FPGA_BUILD)/verilator
	$(BUILD_ENGINE)

$(FPGA_BUILD)/branches/libengine_%.so: COVERAGE = --coverage-line
$(FPGA_BUILD)/branches/libengine_%.so: $(ENGINE_PARTS) | $(FPGA_BUILD)/verilator
	$(BUILD_ENGINE)

# From zeros, or what a reset changes of random values would count.
$(FPGA_BUILD)/toggles/libengine_%.so: COVERAGE = --coverage-toggle --x-initial 0 fpga/sim/toggles.vlt
$(FPGA_BUILD)/toggles/libengine_%.so: $(ENGINE_PARTS) fpga/sim/toggles.vlt | $(FPGA_BUILD)/verilator
	$(BUILD_ENGINE)

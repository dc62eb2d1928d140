# From a machine with git, make, Python 3.10 to 3.14 and a C/C++ compiler to a
# running demo. Each step leaves a stamp and is redone when what it used changes.

BAG ?=
ARGS ?=
SECONDS ?= 3600

# Whose wheels: kilted or jazzy; each has an environment of its own.
ROS ?= kilted
VENV := $(if $(filter kilted,$(ROS)),.venv,.venv-$(ROS))
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
REQUIREMENTS := requirements
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# The environment in .venv is whole in itself. A sourced ROS installation, or the
# wheels of another environment, would get mixed into it through these.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONHOME PYTHONPATH
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifdef AMENT_PREFIX_PATH
unexport LD_LIBRARY_PATH RMW_IMPLEMENTATION ROS_DISTRO
endif

# Tells what an installation of Python lacks; runs under any version of it.
define PROBE
import os, platform, sys, sysconfig
name = "Python %d.%d" % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] <= (3, 14):
    sys.exit(name + ", where 3.10 to 3.14 is needed")
try:
    import ensurepip, venv
except ImportError:
    sys.exit(name + " without venv; install it, e.g. apt install python%d.%d-venv" % sys.version_info[:2])
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit(name + " without its headers; install them, e.g. apt install python%d.%d-dev" % sys.version_info[:2])
if platform.machine() != "x86_64":
    sys.exit(name + " on " + platform.machine() + ", where ROS has no wheels; docs/support.md says what to do")
endef
export PROBE

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11 python3.10

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test slow-test compression-test fuzz camera-test stream-test arm64-test fleet-test camera-packages arm64-packages fleet-packages security-packages view-test view-packages pictures plots chaos soak hil readme peers docs sbom lint lines setup dev sample compression baseline wheel wheel-test ros-release image-test clean distclean

help: ## print the targets
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "PYTHON=... chooses the Python of a new .venv, ARGS=... is passed to pytest,"
	@echo "ROS=jazzy takes the wheels of ROS 2 Jazzy, in .venv-jazzy"

demo: setup $(if $(BAG),,bags/road.mp4) ## run the whole graph on the sample drive, or on BAG=path; results in out/demo
	$(BIN)/perception demo $(if $(BAG),--bag "$(BAG)") --out out/demo

test: dev bags/sample/metadata.yaml ## run all tests but the slow ones and those of training, streams and the page; nodes last
	@$(MAKE) --no-print-directory -j2 fpga-sim || echo "Tests of the simulated engine are skipped"
	@$(BIN)/python test/setup/phases.py $(ARGS)

slow-test: dev bags/sample/metadata.yaml ## run the tests that take longer: every command interrupted, several cameras, HIL, kills again and again
	$(BIN)/python -m pytest -m slow $(ARGS)

compression-test: compression dev ## test the training, pruning and quantization of models
	$(BIN)/python -m pytest test/compression $(ARGS)

fuzz: dev ## read ten million damaged messages, recordings, models and orders; takes up to an hour
	$(BIN)/python test/fuzz/long_run.py

camera-test: dev ## test cameras against the kernel's virtual ones, in an emulated machine
	$(BIN)/python test/cameras/vivid/machine.py $(ARGS)

stream-test: dev ## test streams and pipelines against GStreamer's; camera-packages installs it
	@$(PIP) install --quiet -r $(REQUIREMENTS)/gstreamer.txt || echo "Without PyGObject the tests of pipelines skip"
	$(BIN)/python -m pytest -m stream test/cameras $(ARGS)

camera-packages: ## install what camera-test and stream-test need from Debian; as root
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends python3-gi gir1.2-gst-rtsp-server-1.0 \
	    gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good libgirepository-2.0-dev \
	    libcairo2-dev qemu-system-x86 busybox-static cpio xz-utils kmod

arm64-packages: ## install what arm64-test needs from Debian; as root
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends debootstrap qemu-user-static git

fleet-packages: ## install what fleet-test needs from Debian; as root
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends python3-swift iproute2

security-packages: ## install the Fast DDS with security that tests of the keystore need, from Debian; as root
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends libfastdds-dev

view-test: dev ## test the page in Chromium; view-packages installs it
	@$(PIP) install --quiet -r $(REQUIREMENTS)/browser.txt
	$(BIN)/python -m pytest -m browser test/view $(ARGS)

view-packages: ## install what view-test needs from Debian; as root
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core

pictures: dev sample ## make the pictures of README and documentation anew, in three minutes, with ARGS=result.json of bench deadline its tail too; view-packages installs Chromium
	@$(PIP) install --quiet -r $(REQUIREMENTS)/browser.txt
	$(BIN)/python docs/pictures.py $(ARGS)

plots: setup ## draw the tables of faults and statuses in the documentation as pictures
	$(BIN)/python docs/plots.py

chaos: setup ## kill and stop processes of a running graph at random; takes four minutes
	set -e; for source in shm dds; do \
	    $(BIN)/python test/ros/chaos.py --seconds 120 --blows KILL STOP --source $$source $(ARGS); \
	done

soak: setup ## blows of all kinds for SECONDS, an hour by default; every frame must be accounted for
	$(BIN)/python test/ros/chaos.py --seconds $(SECONDS) --blows KILL STOP PAUSE PAIR ALL $(ARGS)

hil: setup bags/sample/metadata.yaml ## run the hardware-in-the-loop scenarios on this machine; takes five minutes; results in out/hil
	$(BIN)/perception hil run test/faults/scenarios --out out/hil --junit out/hil/junit.xml $(ARGS)

readme: setup sample ## run the commands of the README and the tutorials
	$(BIN)/python test/setup/pages.py

peers: setup $(if $(BAG),,bags/road.mp4) ## compare detectors of ROS 2 that are installed here with ours, on BAG=path too; results in out/peers
	$(BIN)/python benchmarks/peers $(if $(BAG),--bag "$(BAG)") --out out/peers $(ARGS)

sbom: setup build/sbom ## list all packages of .venv with versions and licences (CycloneDX), in out/sbom.cdx.json
	@mkdir -p out
	build/sbom/bin/cyclonedx-py environment --output-reproducible -o out/sbom.cdx.json $(BIN)/python

docs: setup $(STAMPS)/docs ## make the site of the documentation in out/site
	$(BIN)/python -m sphinx -q -W --keep-going docs out/site
	@echo "The site is out/site/index.html"

lint: dev ## check style, types, the direction of imports, the budgets of lines, and the RTL
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python test/setup/lines.py --check
	@if command -v verilator > /dev/null; then $(MAKE) --no-print-directory fpga-lint; \
	    else echo "The RTL is not checked, for want of verilator: sudo make fpga-packages"; fi

lines: $(STAMPS)/venv ## print the lines of code of each room, and its budget
	$(BIN)/python test/setup/lines.py

setup: $(STAMPS)/package $(STAMPS)/interfaces ## make .venv with everything that the graph needs

dev: setup $(STAMPS)/dev ## add to .venv what tests and checks need

sample: bags/road.mp4 bags/sample/metadata.yaml ## make the sample drives in bags/

wheel: setup ## make wheels of the package and of its messages in dist/
	rm -rf build/lib build/bdist.*  # or what was deleted since would be packed too
	PERCEPTION_ROS=$(ROS) $(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/perception messages --wheel dist

ros-release: ## write the packages as ROS's index takes them, in out/ros_release
	@python3 packaging/ros_release.py $(ARGS)

wheel-test: wheel ## install the wheels into an empty environment and play the demo there
	$(BIN)/python test/setup/installed.py $(ARGS)

image-test: ## build what the Dockerfile says in a chroot, and play the demo in it; as root
	unshare --mount --pid --fork --kill-child python3 test/setup/image.py $(ARGS)

arm64-test: setup bags/sample/metadata.yaml ## run tests and commands on an emulated arm64 machine and compare what networks compute with x86-64's; ends after an hour (ARGS="--minutes 90"); as root; results in out/arm64
	$(BIN)/python packaging/arm64_test.py $(ARGS)

fleet-test: dev bags/sample/metadata.yaml ## replay drives by a Ray cluster of several machines, which are namespaces, and OpenStack Swift as their store, with faults; ends after 15 minutes; as root; logs in out/fleet-test
	$(BIN)/python packaging/fleet_test.py $(ARGS)

compression: setup $(STAMPS)/compression ## add to .venv what training, pruning and quantization need (large)

baseline: setup $(STAMPS)/baseline ## add to .venv what `perception bench latency --baseline` measures (large)

clean: ## remove results, bags and caches
	rm -rf out build dist install log bags/road.mp4 bags/sample bags/sample_sqlite3
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

distclean: clean ## remove .venv too
	rm -rf $(VENV) perception_nodes.egg-info

# An environment that is there and works is kept.
$(STAMPS)/venv:
	@for candidate in $(wildcard $(BIN)/python) $(PYTHON); do \
	    lack=$$($$candidate -c "$$PROBE" 2>&1) && chosen=$$candidate && break; \
	    report="$$report\n  $$candidate: $$(echo "$$lack" | head -n 1)"; \
	done; \
	case "$$chosen" in \
	    "") printf "%b\n" "No usable Python (PYTHON=... names another one):$$report" >&2; exit 1 ;; \
	    $(BIN)/python) ;; \
	    *) echo "Making $(VENV) with $$chosen, $$($$chosen --version)"; $$chosen -m venv --clear $(VENV) ;; \
	esac
	@mkdir -p $(STAMPS)
	@touch $(VENV)/COLCON_IGNORE $@

WITH_ROS := $(addprefix $(REQUIREMENTS)/,runtime.txt build.txt $(ROS)/runtime.txt $(ROS)/build.txt)

$(STAMPS)/requirements: $(STAMPS)/venv $(WITH_ROS) $(addprefix $(REQUIREMENTS)/,lock.txt $(ROS)/lock.txt)
	@echo "Installing the pinned requirements: about 600 MB, one to three minutes the first time"
	$(PIP) install $(addprefix -r ,$(WITH_ROS))
	@touch $@

$(STAMPS)/interfaces: $(STAMPS)/requirements $(wildcard interfaces/*.py) $(wildcard interfaces/*/CMakeLists.txt interfaces/*/package.xml interfaces/*/msg/*.msg)
	@echo "Building the message packages: about a minute the first time"
	$(BIN)/python interfaces/build.py
	@touch $@

$(STAMPS)/package: $(STAMPS)/requirements setup.py setup.cfg package.xml pyproject.toml
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/requirements $(addprefix $(REQUIREMENTS)/,dev.txt dev-no-deps.txt fleet.txt gpu.txt)
	$(PIP) install $(addprefix -r $(REQUIREMENTS)/,dev.txt fleet.txt gpu.txt)
	$(PIP) install --no-deps -r $(REQUIREMENTS)/dev-no-deps.txt
	@touch $@

build/sbom: $(REQUIREMENTS)/sbom.txt | $(STAMPS)/venv
	$(BIN)/python -m venv --clear $@
	$@/bin/python -m pip --disable-pip-version-check --no-input install --quiet -r $<
	@touch $@

$(STAMPS)/docs: $(STAMPS)/requirements $(REQUIREMENTS)/docs.txt
	$(PIP) install -r $(REQUIREMENTS)/docs.txt
	@touch $@

# ultralytics asks for the OpenCV with windows, which would overwrite ours.
$(STAMPS)/baseline: $(STAMPS)/requirements $(wildcard $(REQUIREMENTS)/baseline*.txt)
	$(PIP) install -r $(REQUIREMENTS)/baseline.txt
	$(PIP) install --no-deps -r $(REQUIREMENTS)/baseline-no-deps.txt
	@touch $@

# torch-pruning asks for nothing but torch and numpy, which are there by then.
$(STAMPS)/compression: $(STAMPS)/baseline model_compression/requirements.txt model_compression/exporters/requirements.txt
	$(PIP) install -r model_compression/requirements.txt
	@touch $@

include fpga/fpga.mk

bags/sample/metadata.yaml: bags/make_sample.py | $(STAMPS)/requirements
	$(BIN)/python bags/make_sample.py --only bags

bags/road.mp4: | $(STAMPS)/requirements
	$(BIN)/python bags/make_sample.py --only road

"""What may be named as a target of the bench of shapes depends on the processor."""

import os

import pytest

from model_compression import targets
from model_compression.targets import check_target, usual_targets
from perception_nodes.core.inference import BackendError
from perception_nodes.networks.openvino_core import VARIABLE, WITHOUT_TILES
from perception_nodes.system import processes


@pytest.fixture
def flags(monkeypatch, tmp_path):
    """The description of a processor with AVX2 alone."""
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx2\n")
    monkeypatch.setattr(processes, "CPU_INFO", info)
    return info


def test_instructions_that_the_processor_lacks_are_refused(flags):
    check_target("openvino:AVX2")
    for name, flag in (("ALL", "amx_int8"), ("AVX512_CORE_VNNI", "avx512_vnni")):
        with pytest.raises(BackendError, match=f"openvino:{name} needs a processor with {flag}"):
            check_target(f"openvino:{name}")
    flags.write_text("flags : fpu avx2 amx_int8\n")
    check_target("openvino:ALL")


def test_usual_targets_are_those_of_the_processor(flags):
    assert usual_targets() == ["litert", "openvino", "openvino:AVX2", "fpga:512"]
    flags.write_text("flags : fpu avx2 amx_int8\n")
    assert "openvino:ALL" in usual_targets()
    flags.write_text("Features : fp asimd\n")
    assert usual_targets() == ["litert", "openvino", "fpga:512"]


@pytest.mark.parametrize("variant, used", [("", WITHOUT_TILES), ("ALL", "ALL")])
def test_the_callers_environment_does_not_rename_a_target(monkeypatch, variant, used):
    monkeypatch.setenv(VARIABLE, "SSE41")
    monkeypatch.setattr(targets, "leave_to_parent", lambda: None)
    targets._begin(variant)
    assert os.environ[VARIABLE] == used

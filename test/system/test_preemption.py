"""The kernel's preemption model, from its configuration and its command line."""

import gzip
import os
from pathlib import Path

import pytest

from perception_nodes.system.preemption import MODELS, kernel_preemption


def machine(root, config, command_line="quiet", packed=True):
    (root / "proc").mkdir()
    (root / "boot").mkdir()
    (root / "proc/cmdline").write_text(f"{command_line}\n")
    text = f"# made by a distribution\n{config}\nCONFIG_PREEMPT_COUNT=y\n".encode()
    if packed:
        (root / "proc/config.gz").write_bytes(gzip.compress(text))
    else:
        (root / f"boot/config-{os.uname().release}").write_bytes(text)
    return root


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("option", "model"), MODELS.items())
def test_it_is_the_one_the_kernel_was_built_with(tmp_path, option, model, packed):
    assert kernel_preemption(machine(tmp_path, f"{option}=y", packed=packed)) == model


@pytest.mark.parametrize(
    ("config", "command_line", "model"),
    [
        ("CONFIG_PREEMPT_NONE=y", "quiet preempt=full ro", "full"),
        ("CONFIG_PREEMPT_LAZY=y\nCONFIG_PREEMPT_RT=y", "preempt=none", "rt"),
    ],
)
def test_the_command_line_chooses_another_unless_it_is_a_real_time_kernel(
    tmp_path: Path, config: str, command_line: str, model: str
) -> None:
    assert kernel_preemption(machine(tmp_path, config, command_line)) == model


def test_a_kernel_that_does_not_tell_is_unknown(tmp_path):
    assert kernel_preemption(tmp_path) == ""

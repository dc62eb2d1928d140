"""The files generated from fpga/layout.yaml are up to date."""

import subprocess
import sys
from pathlib import Path

from perception_nodes.core.tensor_graph import GROUP
from perception_nodes.fpga.layout import LANES

ROOT = Path(__file__).parent.parent.parent


def test_generated_files_are_current():
    command = [sys.executable, str(ROOT / "fpga" / "generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_row_of_lanes_is_a_group_of_channels():
    assert LANES == GROUP

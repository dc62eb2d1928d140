"""By default a graph is found on its own machine, and neither found nor answering beyond it."""

import json
import os
import subprocess
import sys

import pytest
import second_machine

from perception_nodes.faults.lossy_network import OWN_NETWORK, why_unavailable
from perception_nodes.system.environment import RANGE

_MISSING = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())
pytestmark = [pytest.mark.ros, _MISSING]


def seen(*arguments: str, **environment: str) -> dict:
    """What was seen here and there; the range is the environment's."""
    inherited = {name: value for name, value in os.environ.items() if name != RANGE}
    command = (*OWN_NETWORK, sys.executable, second_machine.__file__, *arguments)
    output = subprocess.run(
        command, env={**inherited, **environment}, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def test_nothing_answers_another_machine() -> None:
    found = seen()
    assert second_machine.WANTED in found["here"]
    assert found["there"] == []
    assert found["sent"] == 0


def test_another_machine_finds_a_graph_that_is_opened_to_the_network() -> None:
    found = seen("until-found", **{RANGE: "SUBNET"})
    assert second_machine.WANTED in found["there"]
    assert found["sent"] > 0

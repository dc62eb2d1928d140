"""What every test gets: a ROS environment of its own, and nothing of the caller's.

Python started from the wheels' environment executes itself once more at start-up
to set the dynamic linker's path, before pytest is loaded. Nothing has to be done
for that here, as long as pytest is started by the environment's own Python.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["endpoint_fixtures"]

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Keep our nodes apart from others on this machine and network."""
    # 1 to 101 are the domain ids whose ports are free on every platform. Two containers may share a
    # network and give the same process ids.
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 101))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # In the background, or under nohup, they are ignored, which the tests' processes would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # How long an example takes tells of the machine, not of us.
    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def ros_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the log files of nodes to the test's own folder."""
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "ros_log"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the repository."""
    return ROOT

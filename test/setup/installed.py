"""Installs the wheels of dist/ into an empty environment, and plays the demo there.

Nothing of the checkout may be needed: it runs in an empty folder, with a home of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ("perception_nodes-*.whl", "perception_messages-*.whl")
FRAMES = 221
"""Of the sample drive."""


def main() -> int:
    """Exit status of the first command that fails, 0 if none does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder of the wheels")
    dist = parser.parse_args().dist.resolve()
    wheels = [max(dist.glob(pattern), key=os.path.getmtime) for pattern in WHEELS]
    with tempfile.TemporaryDirectory(prefix="installed-") as scratch:
        home, environment = Path(scratch) / "home", Path(scratch) / "venv"
        home.mkdir()
        print(f"installing {', '.join(wheel.name for wheel in wheels)}", flush=True)
        venv.create(environment, with_pip=True)
        run(home, environment / "bin/python", "-m", "pip", "install", "--quiet", *wheels)
        run(home, environment / "bin/perception", "--version")
        models = environment / "share/perception_nodes/models"
        run(home, "ls", *(models / name for name in ("README.md", "NOTICE")))
        run(home, environment / "bin/perception", "doctor")
        run(home, environment / "bin/perception", "demo", "--out", "demo")
        summary = json.loads((home / "demo/summary.json").read_text(encoding="utf-8"))
    print(f"{summary['frames_in']} frames, {summary['detections']} detections: {summary['status']}")
    return 0 if summary["frames_in"] == FRAMES and summary["detections"] else 1


def run(home: Path, *command: object) -> None:
    """Run a command as someone would who has only the wheels; ends this program if it fails."""
    print("$", *command, flush=True)
    # ROS's wheels have added to these for the Python that runs this.
    own = ("PYTHONPATH", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    kept = {name: value for name, value in os.environ.items() if name not in own}
    env = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    status = subprocess.run([*map(str, command)], cwd=home, env=env, check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(main())

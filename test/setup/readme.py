"""Runs the commands of the README, so that they are known to work.

Blocks marked `bash` are executed line by line; `console` blocks need a full ROS installation.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"make test"}
"""Run already by whoever runs this."""


def main() -> int:
    """Exit status of the first command that fails, 0 if none does."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    for command in commands:
        if command in SKIPPED:
            continue
        print(f"$ {command}", flush=True)
        status = subprocess.run(["bash", "-c", command], cwd=ROOT, check=False).returncode
        if status:
            print(f"README command failed with status {status}: {command}", file=sys.stderr)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

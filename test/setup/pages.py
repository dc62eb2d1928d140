"""Runs the commands of the README and of the tutorials, so that they are known to work.

Blocks marked `bash` are executed, each as one script; `console` blocks need a full ROS
installation, a camera, root or a device.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {"your-model.md"}
"""Trains a model: test/compression/test_your_own.py runs it."""
SKIPPED = {"make test\n"}
"""Run already by whoever runs this."""


def scripts(page: Path) -> list[str]:
    """The blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def main() -> int:
    """Exit status of the first block that fails, 0 if none does."""
    tutorials = sorted((ROOT / "docs/tutorials").glob("*.md"))
    pages = [ROOT / "README.md", ROOT / "docs/start.md"]
    pages += [page for page in tutorials if page.name not in ELSEWHERE]
    environment = os.environ | {"PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"}
    done = set(SKIPPED)
    for page in pages:
        for script in scripts(page):
            if script in done:
                continue
            done.add(script)
            print(f"== {page.relative_to(ROOT)}\n{script}", end="", flush=True)
            shell = ["bash", "-euo", "pipefail", "-c", script]
            status = subprocess.run(shell, cwd=ROOT, env=environment, check=False).returncode
            if status:
                print(f"{page}: status {status}", file=sys.stderr)
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

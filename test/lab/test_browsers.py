"""Browsers that look at a graph that is measured."""

import subprocess
import sys

from observe import children, is_alive, until

CODE = """
import time
from perception_nodes.lab.browsers import browsers
with browsers(2, 9):
    print(flush=True)
    time.sleep(600)
"""


def test_they_die_with_a_bench_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE) as bench:
        try:
            assert bench.stdout is not None
            bench.stdout.readline()
            browsers = children(bench.pid)
            assert len(browsers) == 2 and all(map(is_alive, browsers))
        finally:
            bench.kill()
    until(lambda: not any(map(is_alive, browsers)))

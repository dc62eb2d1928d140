"""A graph on one machine, and somebody on another one of the same network who looks for it.

Both are network namespaces, with a cable of TAP devices between them. To be run in a namespace of
its own: `unshare --user --map-root-user --net python second_machine.py`. Prints a line of JSON: the
topics under `perception/` that each side has seen.
"""

import json
import os
import subprocess
import sys

from perception_nodes.hil.lossy_network import BENCH_ADDRESS, LossyLink
from perception_nodes.hil.scenario import Conditions

GRAPH = ("run", "source:=shm", "backend:=null", "standby:=never")
LOOK = """
import sys, time, rclpy
rclpy.init()
node = rclpy.create_node("looking")
seen, until_s = set(), time.monotonic() + float(sys.argv[1])
while time.monotonic() < until_s and (len(sys.argv) < 3 or sys.argv[2] not in seen):
    rclpy.spin_once(node, timeout_sec=0.1)
    seen |= {name for name, _ in node.get_topic_names_and_types() if "/perception/" in name}
print(*sorted(seen))
"""
WANTED = "/perception/detections"
PATIENCE_S, ATTACK_S = 40.0, 6.0
"""How long the graph may take to be seen where it should be, and how long the other one tries."""


def looking(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """A node that any machine may run, with the settings of ROS."""
    return subprocess.Popen(
        [sys.executable, "-c", LOOK, *map(str, arguments)],
        env={**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def main() -> int:
    with LossyLink(Conditions()) as link:
        graph = subprocess.Popen([sys.executable, "-m", "perception_nodes", *GRAPH])
        try:
            here = looking(PATIENCE_S, WANTED).communicate()[0].split()
            found = ["--until-found", WANTED] if "--until-found" in sys.argv else []
            attack = (PATIENCE_S, WANTED) if found else (ATTACK_S,)
            other = link.in_unit_namespace(lambda: looking(*attack, ROS_STATIC_PEERS=BENCH_ADDRESS))
            there = other.communicate()[0].split()
        finally:
            graph.terminate()
            graph.wait()
    print(json.dumps({"here": here, "there": there}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

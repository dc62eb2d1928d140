"""A graph on one machine, and somebody on another one of the same network who looks for it.

Both are network namespaces, with a cable of TAP devices between them. To be run in a namespace of
its own: `unshare --user --map-root-user --net python second_machine.py`. Prints a line of JSON: the
topics under `perception/` that each side has seen, and how many UDP packets the graph's has sent.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress

from perception_nodes.faults.lossy_network import BENCH_ADDRESS, LossyLink
from perception_nodes.faults.scenario import NetworkConditions

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
ETH_P_IP = 0x0800
PATIENCE_S, ATTACK_S = 100.0, 6.0
"""How long the graph may take to be seen where it should be, and how long the other one tries."""


def looking(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """A node that any machine may run, with the settings of ROS."""
    return subprocess.Popen(
        [sys.executable, "-c", LOOK, *map(str, arguments)],
        env={**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def packets_of(address: str, heard: socket.socket) -> int:
    """How many UDP packets from an address a raw socket has heard."""
    count, source = 0, socket.inet_aton(address)
    with suppress(BlockingIOError):
        while packet := heard.recv(65536, socket.MSG_DONTWAIT):
            count += packet[23] == socket.IPPROTO_UDP and packet[26:30] == source
    return count


def main() -> int:
    with LossyLink(NetworkConditions()) as link:
        heard = link.in_unit_namespace(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        )
        graph = subprocess.Popen([sys.executable, "-m", "perception_nodes", *GRAPH])
        try:
            here = looking(PATIENCE_S, WANTED).communicate()[0].split()
            packets_of(BENCH_ADDRESS, heard)  # those of the node that looked
            attack = (PATIENCE_S, WANTED) if sys.argv[1:] == ["until-found"] else (ATTACK_S,)
            other = link.in_unit_namespace(lambda: looking(*attack, ROS_STATIC_PEERS=BENCH_ADDRESS))
            there = other.communicate()[0].split()
        finally:
            graph.terminate()
            graph.wait()
        sent = packets_of(BENCH_ADDRESS, heard)
        heard.close()
    print(json.dumps({"here": here, "there": there, "sent": sent}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

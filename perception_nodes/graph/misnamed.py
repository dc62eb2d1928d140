"""Finds ROS arguments that reach no node and seem to be meant for one of the graph's.

A parameter file may be shared with other programs, so the graph logs them and starts.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from perception_nodes.graph.ros_arguments import QOS, RosArguments

ALIKE, LITTLE_ALIKE = 0.8, 0.6
"""A name counts as misspelt from this ratio of `difflib` on. The smaller ratio is for a node whose
parameters are all ours."""
SUFFIX = "_node"
OF_EVERY_NODE = {"use_sim_time"}
"""Parameters that any section may hold, since every node has them."""


OF_LAUNCH_ROS = {"ros_namespace", "ros_remaps", "ros_params", "global_params"}
"""Names under which launch_ros keeps what its actions push and set."""


def misspelt(given: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    """Describe in a line each argument of an included launch file that seems to be misspelt.

    Arguments of the including file are among them, so others may be meant for that file.
    """
    names = list(known)
    for name in sorted(set(given) - set(names) - OF_LAUNCH_ROS):
        if alike := get_close_matches(name, names, n=1, cutoff=ALIKE):
            what = f"launch argument {name!r} is none of this graph's and is ignored"
            yield f"{what}; did you mean {alike[0]}?"


def misnamed(ros: RosArguments, nodes: Iterable[str], parameters: Iterable[str]) -> Iterator[str]:
    """Describe each misnamed section and parameter in a line.

    Args:
        ros: the arguments.
        nodes: names of all nodes that ROS arguments can be for, without the namespace.
        parameters: names of all parameters of the graph.
    """
    known, full_names = set(parameters), {node: ros.full_name(node) for node in nodes}
    for name in sorted(set(ros.parameters) - known - OF_EVERY_NODE):
        alike = get_close_matches(name, known, n=1, cutoff=ALIKE)
        hint = f"; did you mean {alike[0]}?" if alike else ""
        yield f"ROS argument -p {name}: no parameter of this graph; it is ignored{hint}"
    for section in ros.sections:
        names = {name for name in section.values if not name.startswith(QOS)} - OF_EVERY_NODE
        if any(section.matches(name) for name in full_names.values()):
            # Unknown parameters are refused in a section for one node; here they may belong to
            # others.
            for name in sorted(names - known):
                if alike := get_close_matches(name, known, n=1, cutoff=ALIKE):
                    what = f"{name!r} of {section.nodes} is no parameter of this graph"
                    remedy = f"is ignored; did you mean {alike[0]}?"
                    yield f"{section.source}: {what} and {remedy}"
            continue
        ours = names & known
        # Compare without the usual end of names, which would make all names alike.
        short = {node.removesuffix(SUFFIX): node for node in full_names}
        name = section.nodes.rpartition("/")[2].removesuffix(SUFFIX)
        is_ours = ours == names
        alike = get_close_matches(name, short, n=1, cutoff=LITTLE_ALIKE if is_ours else ALIKE)
        if ours and (alike or (is_ours and "*" in section.nodes)):
            remedy = f"its nodes are {', '.join(full_names.values())}"
            if alike:
                remedy = f"did you mean {full_names[short[alike[0]]]}?"
            what = f"{section.source}: {section.nodes} is for no node of this graph"
            yield f"{what} and is ignored; {remedy}"

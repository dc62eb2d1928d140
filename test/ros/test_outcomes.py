"""What comes of a started graph, whatever happens to it: the same by both ways to start one."""

import os
import signal

import pytest
from observe import is_alive
from perception_interfaces.msg import Health
from started_graph import NODES, left_behind, only_launch

from perception_nodes.transport.fastdds import sweep_segments
from perception_nodes.transport.memory import SHM_FOLDER

pytestmark = [pytest.mark.ros]
GRAPH = ("backend:=null", "standby:=always")


def failed(start, status):
    """The exit status of a graph that ends with this status: launch knows only one."""
    return status if start.how == "run" else 1


def stopped(start, number):
    """The exit status of a graph that was asked to stop by this signal."""
    return 128 + number if start.how == "run" else 0


def assert_ended_well(graph, domain, statuses, nodes):
    """It ends with one of these statuses, and nothing of it is left."""
    assert graph.end() in statuses
    assert "Traceback" not in graph.output()
    assert not any(map(is_alive, nodes.values()))
    # A file of DDS that was touched within the last second is left to the next sweep.
    graph.until(lambda: sweep_segments() or left_behind(domain) == [])


def test_a_graph_is_alone_and_its_nodes_are_started_again(start, domain):
    graph = start(*GRAPH)
    first = graph.until_ready()
    second = start(*GRAPH)
    assert second.end() == failed(start, 2)
    assert f"process {graph.supervisor()} runs a graph of camera 'front'" in second.output()
    assert graph.nodes() == first
    for name in reversed(NODES):
        os.kill(first[name], signal.SIGKILL)
        graph.until(lambda name=name: graph.nodes().get(name, first[name]) != first[name])
        graph.until(lambda name=name: f"{name} ended by signal SIGKILL and is" in graph.output())
    graph.until(lambda: graph.output().count(" threads: ") == 4)
    processes = graph.nodes()
    assert sorted(processes) == sorted(NODES)
    os.kill(graph.supervisor() or graph.command.pid, signal.SIGTERM)
    assert_ended_well(graph, domain, {stopped(start, signal.SIGTERM)}, processes)


@pytest.mark.parametrize(
    "harm, files",
    [
        (os.unlink, "perception{}_front_*.lease"),
        (lambda path: os.truncate(path, 0), "perception{}_front_*.lease"),
        (os.unlink, "perception_graph{}_front.lock"),
    ],
)
def test_a_graph_whose_files_are_removed_or_cut_starts_anew(start, domain, harm, files):
    """All of its nodes: one that is started alone would not know of the others."""
    graph = start(*GRAPH)
    first = graph.until_ready()
    for path in SHM_FOLDER.glob(files.format(domain)):
        harm(path)
    graph.until(lambda: "the graph starts anew" in graph.output())
    graph.until(lambda: graph.output().count(" threads: ") == 4)
    second = graph.nodes()
    assert sorted(second) == sorted(NODES)
    assert not set(first.values()) & set(second.values())
    os.kill(graph.supervisor(), signal.SIGTERM)
    assert_ended_well(graph, domain, {stopped(start, signal.SIGTERM)}, second)


def test_a_supervisor_that_is_stopped_is_told_of_until_it_goes_on(start, recorder):
    healths = recorder.hear("perception/health", Health)
    graph = start(*GRAPH)
    graph.until_ready()

    def is_told():
        return healths and any("the supervisor gives no sign" in f for f in healths[-1].faults)

    for number, wanted in ((signal.SIGSTOP, True), (signal.SIGCONT, False)):
        os.kill(graph.supervisor(), number)
        recorder.until(lambda wanted=wanted: is_told() == wanted)


def test_a_killed_supervisor_takes_the_nodes_along_and_the_next_start_cleans_up(start, domain):
    graph = start(*GRAPH)
    nodes = graph.until_ready()
    os.kill(graph.supervisor(), signal.SIGKILL)
    assert graph.end() == failed(start, -signal.SIGKILL)
    graph.until(lambda: not any(map(is_alive, nodes.values())))
    # Their names are those of processes; other names are used again.
    left = {name for name in left_behind(domain) if name.endswith((".journal", ".data"))}
    assert left
    again = start(*GRAPH)
    nodes = again.until_ready()
    assert not left & set(left_behind(domain))
    again.signal(signal.SIGINT)
    again.until(lambda: len(again.nodes()) < len(nodes))
    again.signal(signal.SIGINT)  # as in a terminal, by somebody who does not wait
    assert_ended_well(again, domain, {stopped(start, signal.SIGINT)}, nodes)


@only_launch
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_launch_that_ends_at_once_leaves_nothing(start, domain, number):
    graph = start(*GRAPH)
    processes = [*graph.until_ready().values(), graph.supervisor()]
    os.kill(graph.command.pid, number)
    assert graph.end() in (-number, 1)
    graph.until(lambda: not any(map(is_alive, processes)))
    # A file of DDS that was touched within the last second is left to the next sweep.
    graph.until(lambda: sweep_segments() or left_behind(domain) == [])


def test_two_signals_at_once_end_it_in_good_order(start, domain):
    graph = start(*GRAPH)
    nodes = graph.until_ready()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        os.kill(graph.supervisor() or graph.command.pid, number)
    assert_ended_well(graph, domain, {stopped(start, number) for number in numbers}, nodes)


def test_a_bad_parameter_is_one_line(start):
    graph = start("model:=nope")
    assert graph.end() == failed(start, 2)
    output = graph.output()
    assert output.count("error: model 'nope' is not there") == output.count("rror: ") == 1
    assert "Traceback" not in output


def test_a_node_that_cannot_start_ends_the_graph(start, domain):
    graph = start(*GRAPH, "hardware_watchdog:=/dev/none")
    assert graph.end() == failed(start, 2)
    output = graph.output()
    assert "parameter hardware_watchdog:" in output.rpartition("ended with status 2")[2]
    assert output.count("failed: watchdog_node ended with status 2") == 1
    # Fast DDS's own files stay for a second: a node may still be starting with them.
    assert [name for name in left_behind(domain) if name.startswith("perception")] == []

"""Real processes that stand in for nodes: started, stopped in order, never left behind."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from observe import children, is_alive, until

from perception_nodes.core import failover
from perception_nodes.core.failover import AT_ONCE, STOPPED_S, SUPERVISOR_LOOK_S
from perception_nodes.graph import supervisor
from perception_nodes.graph.config import CamerasSettings, Settings
from perception_nodes.graph.node_spec import NodeKind, NodeSpec
from perception_nodes.graph.supervisor import GraphFailure, Supervisor
from perception_nodes.system.processes import Process
from perception_nodes.system.signals import FROM_TERMINAL, STOPPING
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, TransportError

TIMEOUT_S = 300.0

# Writes what happens to it into a log that all share: one line is one atomic append.
STAND_IN = """
import os, signal, sys, time
name, manner, log = sys.argv[4:7]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

def note(what):
    with open(log, "a") as file:
        file.write(f"{name} {what} {os.getpid()}\\n")

def stop(*_):
    note("stopped")
    sys.exit(0)

if manner == "import for long":
    note("started")
    while not signal.sigpending():
        signal.sigtimedwait([signal.SIGUSR1], 0.01)
signal.signal(signal.SIGINT, signal.SIG_IGN if manner == "hang" else stop)
signal.signal(signal.SIGTERM, signal.SIG_IGN if manner == "hang" else stop)
note("started")
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
if " then " in manner:
    with open(log) as file:
        again = sum(line.split()[0] == name for line in file) > 1
    manner = manner.split(" then ")[again]
if manner.startswith("exit"):
    sys.exit(int(manner[-1]))
if manner == "say and crash":
    os.pwrite(int(os.environ["PERCEPTION_LAST_WORDS"]), b"no lens " + str(os.getpid()).encode(), 0)
    sys.exit(1)
if manner == "abort":
    os.kill(os.getpid(), signal.SIGKILL)
if manner == "end when told":
    signal.sigwait([signal.SIGUSR1])
    note("told")
    sys.exit(0)
while True:
    time.sleep(0.1)  # a signal that comes just before `pause` would leave it waiting
"""


def stand_in(name, manner, log, restarted=False, package="stand_in", **facts):
    """A node that runs the stand-in."""
    kind = NodeKind("program", Settings, package, restarted=restarted)
    arguments = (name, manner, str(log))
    return NodeSpec(kind, Settings(), name, f"/{name}", ros_arguments=arguments, **facts)


def with_kind(spec, **facts):
    return replace(spec, kind=replace(spec.kind, **facts))


class Log:
    """The lines that the stand-ins have written."""

    def __init__(self, path):
        self.path = path
        path.touch()

    def lines(self):
        return [tuple(line.split()) for line in self.path.read_text().splitlines()]

    def names(self, what):
        return [name for name, happened, _ in self.lines() if happened == what]

    def process(self, name):
        return next(int(pid) for who, _, pid in self.lines() if who == name)

    def wait_for(self, count, what="started"):
        until(lambda: len(self.names(what)) >= count)


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "log")


@pytest.fixture
def graph(tmp_path, log, monkeypatch):
    """Makes a graph of stand-ins, given as manners by name."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in/program.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(failover, "SUPERVISOR_LOOK_S", 0.005)
    before = children(os.getpid())

    def make(ends=(), restarted=(), stop_timeout_s=TIMEOUT_S, while_alive=None, **manners):
        specs = []
        for name, manner in manners.items():
            facts = {"ends_graph": name in ends, "restarted": name in restarted}
            specs.append(stand_in(name, manner, log.path, stands_by="standby" in name, **facts))
        return Supervisor(specs, stop_timeout_s, while_alive=while_alive)

    yield make
    assert children(os.getpid()) == before, "zombies"


def test_standbys_start_when_the_others_have_loaded(graph, log, monkeypatch):
    monkeypatch.setattr(supervisor, "STANDBYS_AFTER_S", 0.0)
    with graph(node_standby="run", node="run") as running:
        assert [spec.name for spec, _ in running.processes] == ["node"]
        assert stopped_when(running, lambda: log.wait_for(2)) is False
        assert [spec.name for spec, _ in running.processes] == ["node", "node_standby"]
    assert sorted(log.names("stopped")) == ["node", "node_standby"]


def stopped_when(running, condition, act=None):
    """Wait for the graph, which another thread stops when something has come about."""

    def stop():
        condition()
        (act or running.stop)()

    with ThreadPoolExecutor(1) as thread:
        stopped = thread.submit(stop)
        ended = running.wait()
    stopped.result()
    return ended


def told_of(capfd, text):
    """Waits until the supervisor has logged a text."""
    return lambda: until(lambda: text in capfd.readouterr().err)


def interrupt(graph, number=signal.SIGINT):
    """Signal this process; Python's handler runs in the main thread, which waits in the graph."""
    threading.Thread(target=os.kill, args=(os.getpid(), number)).start()
    return graph.wait()


def test_a_node_that_is_still_starting_stops_in_good_order(graph, log):
    with graph(a="import for long") as running:
        log.wait_for(1)
        ((_, process),) = running.processes
    assert log.names("stopped") == ["a"]
    assert process.returncode == 0


def test_starts_all_and_interrupts_them_in_reverse_order(graph, log, monkeypatch):
    interrupted = []
    real = subprocess.Popen.send_signal

    def note(process, number):
        interrupted.append((process.pid, number))
        real(process, number)

    with graph(a="run", b="run", c="run"):
        log.wait_for(3)
        monkeypatch.setattr(subprocess.Popen, "send_signal", note)
    assert interrupted == [(log.process(name), signal.SIGINT) for name in "cba"]
    assert sorted(log.names("stopped")) == ["a", "b", "c"]


def test_who_tells_of_the_others_is_stopped_when_they_have_ended(graph, log):
    made = graph(a="run", watchdog="run", b="run")
    made._specs = [with_kind(spec, stops_last=spec.name == "watchdog") for spec in made._specs]
    with made:
        log.wait_for(3)
    assert set(log.names("stopped")[:2]) == {"a", "b"}
    assert log.names("stopped")[2:] == ["watchdog"]


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_the_wait_and_not_the_nodes(graph, log, number):
    with graph(a="run", b="run") as running:
        log.wait_for(2)
        assert interrupt(running, number) is False
        assert log.names("stopped") == []
    assert sorted(log.names("stopped")) == ["a", "b"]


def test_the_graph_ends_with_its_last_node(graph, log):
    with graph(ends=["player"], a="run", player="exit 0") as running:
        log.wait_for(2)
        assert running.wait() is True
    assert log.names("stopped") == ["a"]


@pytest.mark.parametrize(("file", "ends"), [("", True), ("rear", False)])
def test_a_graph_ends_with_a_clip_but_not_before_its_files(graph, log, capfd, file, ends):
    cameras = {"front": "exit 4"} | ({"rear": "run"} if file else {})
    with graph(ends=[file], restarted=["front", "rear"], **cameras) as running:
        if ends:
            assert running.wait() is True
        else:
            assert stopped_when(running, told_of(capfd, "front has come to its end")) is False
    assert log.names("started").count("front") == 1


def test_a_graph_of_several_files_ends_with_the_last_of_them(graph, log, monkeypatch):
    with graph(
        ends=["front", "rear"], restarted=["front", "rear"], front="exit 0", rear="end when told"
    ) as running:
        log.wait_for(2)
        monkeypatch.setattr(
            running, "_say", lambda line: os.kill(log.process("rear"), signal.SIGUSR1)
        )
        assert running.wait() is True
        assert log.names("told") == ["rear"]
    assert sorted(log.names("started")) == ["front", "rear"]


@pytest.mark.parametrize(
    ("graph_of", "manner", "how"),
    [
        ({}, "exit 3", "with status 3"),
        ({}, "abort", "by signal SIGKILL"),
        ({"ends": ["player"]}, "exit 0", "with status 0"),
        ({"ends": ["one"]}, "exit 3", "with status 3"),
        ({"restarted": ["one"]}, "exit 2", "with status 2"),
    ],
)
def test_an_end_that_is_a_failure_is_told_by_name_and_ends_the_others(
    graph, log, graph_of, manner, how
):
    with pytest.raises(GraphFailure, match=f"^one ended {how}$"):
        with graph(**graph_of, a="run", one=manner, player="run") as running:
            log.wait_for(3)
            running.wait()
    assert sorted(log.names("stopped")) == ["a", "player"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_node_that_dies_or_is_stopped_is_replaced(graph, log, monkeypatch, number):
    monkeypatch.setattr(failover, "STOPPED_S", 0.1)
    with graph(restarted=["detector"], a="run", detector="run") as running:
        log.wait_for(2)
        first = log.process("detector")
        os.kill(first, number)
        os.kill(log.process("a"), signal.SIGSTOP)
        assert stopped_when(running, lambda: log.wait_for(3)) is False
        os.kill(log.process("a"), signal.SIGCONT)
        assert not is_alive(first)
        assert [process.poll() for _, process in running.processes] == [None, None]
    assert sorted(log.names("started")) == ["a", "detector", "detector"]
    assert sorted(log.names("stopped")) == ["a", "detector"]


@pytest.mark.parametrize(("away_s", "killed"), [(0.0, True), (100.0, False)])
def test_who_was_stopped_himself_does_not_blame_the_others(monkeypatch, away_s, killed):
    """A virtual machine that is stopped for a while, all its processes with it."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    kills, stopped = [], False
    monkeypatch.setattr(supervisor, "is_stopped", lambda process: stopped)
    spec = SimpleNamespace(name="a", kind=SimpleNamespace(restarted=True))
    process = SimpleNamespace(pid=1, kill=lambda: kills.append(clock.now_s))
    judge = Supervisor([])

    def look(seconds):
        for _ in range(round(seconds / SUPERVISOR_LOOK_S)):
            clock.now_s += SUPERVISOR_LOOK_S
            judge._kill_stopped(spec, process)

    look(1.0)
    stopped = True
    look(STOPPED_S / 2)
    clock.now_s += away_s
    look(0.7 * STOPPED_S)
    assert bool(kills) is killed
    stopped = False
    look(2 * STOPPED_S)
    assert bool(kills) is killed


@pytest.mark.parametrize(
    ("manner", "said"),
    [("exit 3", "with status 3 at once, 3 times$"), ("say and crash", r"times: no lens \d+$")],
)
def test_one_that_never_works_ends_the_graph_with_its_cause(graph, log, manner, said):
    with pytest.raises(GraphFailure, match=said):
        with graph(restarted=["detector"], a="run", detector=manner) as running:
            running.wait()
    assert log.names("started").count("detector") == failover.SAME_CAUSE
    assert log.names("stopped") == ["a"]


def test_one_that_dies_again_and_again_is_started_more_slowly(graph, log, monkeypatch, capfd):
    monkeypatch.setattr(failover, "DELAY_S", 0.5)
    monkeypatch.setattr(failover, "WORKED_S", 0.0)
    with graph(restarted=["detector"], detector="exit 3 then exit 2") as running:
        assert stopped_when(running, lambda: log.wait_for(2 + AT_ONCE)) is False
    said = [line for line in capfd.readouterr().err.splitlines() if "is started again" in line]
    assert said[0] == "detector ended with status 3 and is started again at once"
    assert sum("at once" in line for line in said) == AT_ONCE
    assert said[AT_ONCE].endswith("in 0.5 s, 6 deaths within a minute")


@pytest.mark.parametrize("number", FROM_TERMINAL)
def test_a_signal_that_we_are_to_ignore_is_ignored(graph, log, number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with graph(a="run"):
            assert signal.getsignal(number) is signal.SIG_IGN
            log.wait_for(1)
    finally:
        signal.signal(number, before)
    assert log.names("stopped") == ["a"]


def test_one_that_only_shows_and_cannot_start_is_left_out(graph, log, capfd):
    made = graph(restarted=["detector", "page"], page="exit 2", detector="end when told")
    made._specs = [with_kind(spec, dispensable=spec.name == "page") for spec in made._specs]
    with made as running:

        def end():
            os.kill(log.process("detector"), signal.SIGUSR1)

        told = told_of(capfd, "page ended with status 2 and is not started again")
        assert stopped_when(running, lambda: (told(), log.wait_for(2)), end) is True
    assert sorted(log.names("started")) == ["detector", "page"]


def test_a_standby_that_cannot_start_does_not_end_the_graph(graph, log, capfd, monkeypatch):
    monkeypatch.setattr(supervisor, "STANDBYS_AFTER_S", 0.0)
    names = ["detector", "detector_standby"]
    with graph(restarted=names, detector="run", detector_standby="exit 2") as running:
        wanted = "detector_standby ended with status 2 and is started again in 10 s"
        assert stopped_when(running, told_of(capfd, wanted)) is False


def test_a_node_that_is_shut_down_stays_down_and_the_others_go_on(graph, log, capfd):
    with graph(restarted=["a", "detector"], a="exit 0", detector="run") as running:
        log.wait_for(2)
        wanted = "a was shut down and is not started again"
        assert stopped_when(running, told_of(capfd, wanted)) is False
    assert sorted(log.names("started")) == ["a", "detector"]


def test_a_graph_whose_nodes_are_all_shut_down_has_ended(graph, log):
    with graph(restarted=["a", "detector"], a="exit 0", detector="exit 0") as running:
        assert running.wait() is True


def test_a_node_that_hangs_is_killed_after_the_timeout(graph, log):
    with graph(a="run", hanging="hang", stop_timeout_s=0.1):
        log.wait_for(2)
        hanging = log.process("hanging")
    assert not is_alive(hanging)
    assert log.names("stopped") == ["a"]


@pytest.mark.parametrize(
    ("name", "manners"),
    [("b", {"b": "abort then run"}), ("c_standby", {"b": "run", "c_standby": "run"})],
)
def test_where_there_is_no_room_for_a_process_the_others_go_on(
    graph, log, monkeypatch, capfd, name, manners
):
    monkeypatch.setattr(failover, "DELAY_S", 0.05)
    monkeypatch.setattr(supervisor, "STANDBYS_AFTER_S", 0.1)
    real, refused = subprocess.Popen, []

    def refuse_twice(*args, **options):
        if len(log.names("started")) == 2 and len(refused) < 2:
            refused.append(OSError("no more processes"))
            raise refused[-1]
        return real(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", refuse_twice)
    with graph(restarted=["a", "b"], a="run", **manners) as running:
        log.wait_for(2)
        assert stopped_when(running, lambda: log.wait_for(3)) is False
    assert sorted(log.names("started")) == sorted(["a", "b", name])
    said = f"{name} cannot be started: no more processes; tried again in 0.05 s"
    assert capfd.readouterr().err.count(said) == len(refused) == 2


def test_a_node_that_cannot_be_started_leaves_none_of_the_others(graph, log, monkeypatch):
    real, started = subprocess.Popen, []

    def fail_at_third(*args, **options):
        if len(started) == 2:
            raise OSError("no more processes")
        started.append(real(*args, **options))
        log.wait_for(len(started))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", fail_at_third)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="no more processes"), graph(a="run", b="run", c="run"):
        pytest.fail("entered")
    assert sorted(log.names("stopped")) == ["a", "b"]
    assert signal.getsignal(signal.SIGINT) == before


def test_shared_memory_is_swept_in_the_beginning_and_in_the_end(graph, log, monkeypatch):
    swept = []
    monkeypatch.setattr(supervisor, "sweep", lambda: swept.append(log.lines()))
    told = [SHM_FOLDER / f"{own_prefix()}front.{what}" for what in ("book", "detector.1.journal")]
    for path in told:
        path.touch()
    with graph(restarted=["a"], a="run"):
        log.wait_for(1)
        assert not any(path.exists() for path in told), "of another graph"
        told[0].touch()
    assert not told[0].exists()
    assert [[what for _, what, _ in lines] for lines in swept] == [[], ["started", "stopped"]]


def test_a_graph_that_others_run_already_is_not_started(graph, log):
    with graph(restarted=["a"], a="run"):
        log.wait_for(1)
        with pytest.raises(TransportError, match=f"process {os.getpid()} runs a graph of camera"):
            with graph(restarted=["a"], a="run"):
                pytest.fail("entered")
        others = graph(restarted=["a"], a="run")
        others._specs = [
            replace(spec, settings=CamerasSettings(cameras="left,right")) for spec in others._specs
        ]
        with pytest.raises(TransportError, match=f"{os.getpid()} runs a graph with a node /a in"):
            with others:
                pytest.fail("entered")
        with graph(b="run"):  # what is not restarted is no graph of a camera's
            log.wait_for(2)
    assert log.names("started") == ["a", "b"]


def test_a_graph_ends_with_the_process_that_it_is_for(graph, log):
    command = subprocess.Popen(["sleep", "60"])
    process = Process(command.pid)
    with graph(a="run", while_alive=process) as running:
        log.wait_for(1)
        threading.Thread(target=command.kill).start()
        assert running.wait() is False
    process.close()
    command.wait()
    assert log.names("stopped") == ["a"]


def test_a_log_receives_what_nodes_write_and_a_failure_names_its_last_error(tmp_path):
    spec = stand_in("a", "run", "log", package="nonesuch")
    with (tmp_path / "out").open("w+b") as out, pytest.raises(GraphFailure, match="nonesuch"):
        with Supervisor([spec], log=out) as running:
            running.wait()
    assert b"nonesuch" in (tmp_path / "out").read_bytes()


def test_nodes_die_with_a_killed_supervisor_also_where_they_hang(graph, log, tmp_path, root):
    code = f"""
import sys
sys.path[:0] = [{str(root)!r}, {str(root / "test/graph")!r}, {str(root / "test/system")!r}]
from test_supervisor import stand_in
from perception_nodes.graph.supervisor import Supervisor
with Supervisor([stand_in(n, "hang", {str(log.path)!r}) for n in ("a", "b")]) as graph:
    graph.wait()
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        log.wait_for(2)
        assert is_alive(log.process("a"))
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
    until(lambda: not is_alive(log.process("a")) and not is_alive(log.process("b")))


def test_nodes_get_their_environment(graph, log):
    made = graph(a="run")
    made._specs[0].environment["PERCEPTION_TEST"] = "here"
    with made:
        log.wait_for(1)
        environment = Path(f"/proc/{log.process('a')}/environ").read_bytes().split(b"\0")
    assert b"PERCEPTION_TEST=here" in environment


def test_an_end_by_a_signal_without_a_name_is_said():
    assert supervisor._how(-signal.SIGRTMIN - 1) == f"by signal {signal.SIGRTMIN + 1}"


@pytest.mark.parametrize("who", ["supervisor", "node"])
def test_where_files_of_the_graph_are_removed_all_its_nodes_start_anew(
    graph, log, monkeypatch, capfd, who
):
    """One that is started alone would not know of those that go on with removed files."""
    monkeypatch.setattr(supervisor, "ANEW_TIMEOUT_S", TIMEOUT_S)
    lease = SHM_FOLDER / f"{own_prefix()}front_detector.lease"
    manner = "run" if who == "supervisor" else "exit 5 then run"
    with graph(one="run", two=manner, restarted=("one", "two")) as running:
        running._notes.keep({"score_threshold": 0.75})

        def remove():
            if who == "supervisor":
                log.wait_for(2)
                lease.unlink()
                os.kill(log.process("one"), signal.SIGKILL)
            until(lambda: log.names("started").count("one") == 2)
            until(lambda: log.names("started").count("two") == 2)

        assert stopped_when(running, remove) is False
        assert running._notes.changes() == {"score_threshold": 0.75}
    assert log.names("stopped").count("one") >= 1
    assert "removed from shared memory; the graph starts anew" in capfd.readouterr().err
    lease.unlink(missing_ok=True)


def test_a_watchdog_that_dies_while_the_graph_stops_is_replaced_to_tell_of_the_last_frames(
    graph, log, monkeypatch, capfd
):
    monkeypatch.setattr(supervisor, "LAST_REPORTS_S", 0.5)
    with graph(node="run", watchdog="run", restarted=("node", "watchdog")) as running:
        spec, process = running._started["watchdog"]
        running._started["watchdog"] = with_kind(spec, stops_last=True), process
        log.wait_for(2)
        process.kill()
    assert log.names("started").count("watchdog") == 2
    assert log.names("stopped") == ["node", "watchdog"]
    assert "another one tells of its frames" in capfd.readouterr().err

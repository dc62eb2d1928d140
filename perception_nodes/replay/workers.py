"""Workers for the drives of a corpus: processes of this machine, or a Ray cluster."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from multiprocessing import get_context, resource_tracker
from queue import SimpleQueue
from typing import Any

from perception_nodes.graph.settings import SettingsError
from perception_nodes.replay.background import Progress, Submit, T, Work, repeated
from perception_nodes.replay.corpus import WorkerDied
from perception_nodes.system.environment import die_with_parent
from perception_nodes.system.signals import FROM_TERMINAL, check_end, leave_to_parent, noted_signals

ATTEMPTS = 3
PROGRESS_INTERVAL_S = 0.2
REACHED_WITHIN_S = 5.0


@contextmanager
def local_workers(count: int, progress: Progress) -> Iterator[Submit]:
    """Use processes of this machine.

    Args:
        count: number of processes.
        progress: called with their progress, from a thread.
    """
    lanes = [_Lane() for _ in range(count)]
    free: SimpleQueue[_Lane] = SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def do(name: str, work: Work[Any]) -> Any:
        lane = free.get()
        try:
            return _tried(lambda: lane.do(name, work))
        finally:
            free.put(lane)

    def forward() -> None:
        for lane in lanes:
            if lane.name and lane.board[0]:
                progress(lane.name, lane.board[0], lane.board[1])

    threads = ThreadPoolExecutor(count, initializer=_block_interrupts)
    with repeated(forward, PROGRESS_INTERVAL_S):
        try:
            yield lambda name, work: threads.submit(do, name, work)
        finally:
            for lane in lanes:
                lane.board[2] = 1  # interrupt a job, which then removes its temporary files
            threads.shutdown(cancel_futures=True)
            for lane in lanes:
                lane.close()


class _Lane:
    """Runs one process at a time, so that the work of a process that dies is known.

    Each value that parent and process share is written by only one of them and without a lock: a
    killed process would never release it.

    Attributes:
        name: name of the current drive; empty for none.
        board: shared values: frames done, their total, and whether the process should stop.
    """

    def __init__(self) -> None:
        # Do not fork: the runtime of a model has threads.
        self._context = get_context("spawn")
        self.board, self.name = self._context.RawArray("q", 3), ""
        self._pool: ProcessPoolExecutor | None = None

    def do(self, name: str, work: Work[T]) -> T:
        """Do work in the process and wait for it."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, self._context, _begin, (os.getpid(), self.board))
        self.board[0], self.name = 0, name
        try:
            return self._pool.submit(_work, work).result()
        except BrokenProcessPool as error:
            self.close()
            raise WorkerDied("it was killed, or ran out of memory") from error
        finally:
            self.name = ""

    def close(self) -> None:
        """Wait for the process to end."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _block_interrupts() -> None:
    """Keep signals of a terminal from this thread and from the processes that it starts.

    They reach the workers too: before one ignores them, Python would end in the middle of an
    import.
    """
    # SIGHUP would end the tracker of resources.
    signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
    # The start of the tracker lifts the block of Ctrl-C, so it must come before the first worker.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)


_board: Any = None


def _begin(parent: int, board: Any) -> None:
    """Set up a worker process; only the parent decides when it ends."""
    global _board
    _board = board
    leave_to_parent(lambda: board[2])
    die_with_parent(parent)


def _work(work: Work[T]) -> T:
    def progress(name: str, done: int, total: int) -> None:
        check_end()  # which then removes its temporary files
        _board[0], _board[1] = done, total

    return work(progress)


def _tried(do: Callable[[], T]) -> T:
    """Do work, and again if its worker dies, up to `ATTEMPTS` times in total."""
    for _ in range(ATTEMPTS):
        try:
            return do()
        except WorkerDied as error:
            last = error
    raise WorkerDied(f"its worker died {ATTEMPTS} times, the last time: {last}") from last


@contextmanager
def ray_workers(address: str, count: int, progress: Progress) -> Iterator[Submit]:
    """Use tasks of a Ray cluster, whose machines see bags and outputs under the same paths.

    Args:
        address: address of the cluster; `auto` for the one that this machine belongs to, `local`
            to start one that ends with this context.
        count: number of tasks at a time.
        progress: called with their progress, from a thread.

    Raises:
        SettingsError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
        from ray.util.queue import Queue
    except ImportError as error:
        raise SettingsError(f"--ray needs Ray ({error}); pip install ray") from error
    # Ray prints messages about dead workers to standard output, where only results belong.
    with redirect_stdout(sys.stderr), _cluster(ray, address, count) as mine:
        # The queue is on this machine: another one may be lost.
        on_mine = {f"node:{mine['NodeManagerAddress']}": 0.001}
        updates: Any = Queue(actor_options={"num_cpus": 0, "resources": on_mine})
        task: Any = ray.remote(max_retries=0)(_ray_task)  # we retry, not Ray
        running: set[Any] = set()

        def do(work: Work[T]) -> T:
            reference = task.remote(work, updates)
            running.add(reference)
            try:
                while True:
                    try:
                        result: T = ray.get(reference, timeout=REACHED_WITHIN_S)
                        return result
                    except ray.exceptions.GetTimeoutError:
                        with socket.socket(socket.AF_UNIX) as raylet:
                            raylet.connect(mine["RayletSocketName"])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.TaskCancelledError as error:
                raise KeyboardInterrupt from error
            except (OSError, ray.exceptions.LocalRayletDiedError) as why:
                raise SettingsError(f"--ray {address}: the cluster is lost; run it again") from why
            except ray.exceptions.RayError as error:
                raise WorkerDied(str(error).strip().splitlines()[0]) from error
            finally:
                running.discard(reference)

        def forward() -> None:
            with suppress(ray.exceptions.RayError):
                for item in updates.get_nowait_batch(updates.qsize()):
                    progress(*item)

        threads = ThreadPoolExecutor(count)
        with repeated(forward, PROGRESS_INTERVAL_S):
            try:
                yield lambda _, work: threads.submit(_tried, partial(do, work))
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                for reference in tuple(running):
                    ray.cancel(reference)
                threads.shutdown()


@contextmanager
def _cluster(ray: Any, address: str, count: int) -> Iterator[dict[str, Any]]:
    """Connect to a cluster; gives what Ray knows of its part on this machine."""
    cluster: dict[str, Any] = {"address": address}
    if address == "local":
        # Make it reachable only from this machine, without usage statistics.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cluster = {"num_cpus": count, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        host, colon, port = address.rpartition(":")
        if colon and "/" not in host:
            # Ray itself would retry for minutes.
            socket.create_connection((host, int(port)), REACHED_WITHIN_S).close()
        # Ray keeps Ctrl-C from its processes, but not the end of the terminal.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
        try:
            ray.init(log_to_driver=False, logging_level="error", **cluster)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise SettingsError(f"--ray {address}: no cluster can be reached: {error}") from error
    try:
        here = ray.get_runtime_context().get_node_id()
        yield next(one for one in ray.nodes() if one["NodeID"] == here)
    finally:
        ray.shutdown()


def _ray_task(work: Work[T], updates: Any) -> T:
    die_with_parent(os.getppid())  # Ray may leave it running, beside the next attempt
    last_s = 0.0

    def progress(name: str, done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if name and now_s - last_s > PROGRESS_INTERVAL_S:
            last_s = now_s
            updates.actor.put_nowait.remote((name, done, total))  # do not wait: it may be lost

    # Ray cancels by a simulated signal, which a thread that waits would not see.
    with noted_signals():
        return work(progress)

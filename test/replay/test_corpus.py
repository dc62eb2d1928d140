"""Many drives over several workers: shared out, merged, taken up again, none counted twice."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest
from commands import replay as replay_with
from commands import unusable
from drives import write_ros2
from observe import until

from perception_nodes.backends.contract import BACKENDS
from perception_nodes.cli.replay_screen import corpus_progress
from perception_nodes.core.errors import PerceptionError
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet
from perception_nodes.faults import faulty_backend
from perception_nodes.faults.faulty_backend import VARIABLE, Orders
from perception_nodes.networks.model import load_model
from perception_nodes.replay import corpus, tables
from perception_nodes.replay.corpus import WorkerDied, jobs_of, read_corpus, replay_corpus
from perception_nodes.replay.drives import sources
from perception_nodes.replay.offline_camera import ReplaySettings
from perception_nodes.replay.run import DriveCamera, ReplayOptions
from perception_nodes.replay.workers import ATTEMPTS, _tried, local_workers
from perception_nodes.system.processes import open_process
from perception_nodes.system.signals import FROM_TERMINAL

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("no_pages")
FRAMES = 5
DRIVES = ("a", "b", "c")


@pytest.fixture
def drives(tmp_path):
    """A list of three drives."""
    for name in DRIVES:
        write_ros2(tmp_path / name, frames=FRAMES)
    list_file = tmp_path / "list.txt"
    list_file.write_text("# drives of a week\na\nb  # Tuesday\n\nc\n")
    return list_file


def replay(*arguments, status=1):
    """Run the command in this process; its JSON. A backend that detects nothing has status 1."""
    return replay_with(*arguments, "--backend", "null", "--no-pictures", status=status)


def check_whole(whole, out, names=DRIVES):
    """Each drive is there once, and the totals are their sums."""
    assert list(whole["drives"]) == list(names)
    assert whole["totals"]["frames_in"] == whole["totals"]["status"]["OK"] == FRAMES * len(names)
    assert json.loads((out / "summary.json").read_text()) == whole
    with (out / "drives.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if not row["error"]]
    assert [(row["drive"], int(row["frames_in"])) for row in rows] == [(n, FRAMES) for n in names]
    assert not list(out.rglob(".part-*"))
    for name in names if tables.available() else ():
        frames = import_module("pyarrow.parquet").ParquetFile(out / name / "frames.parquet")
        assert frames.metadata.num_rows == FRAMES


def test_what_workers_do_is_what_one_process_does(drives, tmp_path):
    whole = replay("--corpus", drives, "--workers", 2, "--out", tmp_path / "out")
    check_whole(whole, tmp_path / "out")
    alone = replay(*(tmp_path / name for name in DRIVES), "--out", tmp_path / "alone")
    check_whole(alone, tmp_path / "alone")
    drives = [one["drives"].values() for one in (whole, alone)]
    hashes = [[summary["detections_sha256"] for summary in some] for some in drives]
    assert hashes[0] == hashes[1]


def test_a_drive_that_cannot_be_replayed_stops_no_other(drives, tmp_path):
    drives.write_text("a\nnone\nc\n")
    whole = replay("--corpus", drives, "--out", tmp_path / "out", status=2)
    check_whole(whole, tmp_path / "out", ("a", "c"))
    assert list(whole["failed"]) == ["none"]
    assert "does not exist" in whole["failed"]["none"]
    assert (whole["totals"]["drives"], whole["totals"]["failed_drives"]) == (3, 1)
    page = (tmp_path / "out/fleet.html").read_text()
    assert whole["failed"]["none"] in page and 'href="a/report.html"' in page
    assert "3 drives, 10 frames" in page and 'src="a/overview.png"' in page


def test_nothing_of_an_earlier_replay_stands_beside_the_new_one(drives, tmp_path):
    """Of a drive that fails now, of several drives, of a single one; a drive itself stays."""
    out = tmp_path / "out"
    replay(tmp_path / "a", "--out", out)
    assert (out / "timing.csv").exists()
    replay("--corpus", drives, "--out", out)
    written = {*DRIVES, "drives.csv", "fleet.html", "summary.json"}
    written |= {"drives.parquet"} if tables.available() else set()
    assert {file.name for file in out.iterdir()} == written
    (out / "b/notes.txt").touch()
    for broken in ("b", "c"):
        next((tmp_path / broken).glob("*.mcap")).write_bytes(b"cut")
    for options in (("--corpus", drives), [tmp_path / name for name in DRIVES]):
        whole = replay(*options, "--out", out, status=2)
        check_whole(whole, out, ("a",))
        assert list(whole["failed"]) == ["b", "c"]
        assert (whole["totals"]["drives"], whole["totals"]["failed_drives"]) == (3, 2)
        assert [file.name for file in (out / "b").iterdir()] == ["notes.txt"]
        assert not (out / "c").exists()
    replay(tmp_path / "a", "--out", out)
    assert not (out / "drives.csv").exists()
    recording = out / "detections.mcap"
    replay(recording, tmp_path / "a", "--out", out, status=2)  # it has no pictures to replay
    assert recording.exists()


def test_a_golden_of_a_corpus(drives, tmp_path):
    golden = tmp_path / "golden.json"
    options = ("--out", tmp_path / "out", "--golden", golden)
    replay("--corpus", drives, *options, "--update")
    bags = [tmp_path / name for name in DRIVES]
    for named in (("--corpus", drives), bags, bags[:1]):  # a part may be named on purpose
        replay(*named, *options, status=0)
    content = json.loads(golden.read_text())
    content["drives"]["b"][2][1] = [["bus", 0.9, 1, 1, 40, 40]]
    golden.write_text(json.dumps(content))
    whole = replay(*bags, *options, status=1)
    assert whole["totals"]["golden_changes"] == 1
    assert whole["drives"]["b"]["golden"]["kinds"] == {"vanished": 1}
    drives.write_text("a\n")  # the corpus lacks drives of the golden
    replay("--corpus", drives, *options, status=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--corpus", "/nowhere"), "/nowhere cannot be read"),
        (("--corpus", "{empty}"), "names no drive"),
        (("--corpus", "{list}", "--workers", "2", "--mode", "realtime"), "--workers goes with"),
        (("--corpus", "{list}", "--ray", "127.0.0.1:1"), "no cluster can be reached"),
    ],
)
def test_unusable_input_is_named(drives, tmp_path, arguments, said):
    if "--ray" in arguments:
        pytest.importorskip("ray")
    (tmp_path / "empty").write_text("# nothing\n")
    filled = [part.format(empty=tmp_path / "empty", list=drives) for part in arguments]
    assert said in unusable(*filled, "--out", tmp_path / "out")


def test_two_replays_do_not_write_to_one_folder(drives, tmp_path):
    out = tmp_path / "out"
    with corpus.alone_in(out), pytest.raises(PerceptionError, match="another replay writes"):
        replay("--corpus", drives, "--out", out)
    assert not out.exists()
    with corpus.alone_in(out):
        (out / "drives.csv").touch()
    assert [path.name for path in out.iterdir()] == ["drives.csv"]


def test_a_lock_that_another_run_has_just_removed_locks_nobody_out(tmp_path, monkeypatch):
    def flock(lock, how):
        (tmp_path / ".lock").unlink()

    monkeypatch.setattr(corpus.fcntl, "flock", flock)
    with pytest.raises(PerceptionError, match="another replay"), corpus.alone_in(tmp_path):
        pytest.fail("it was taken for locked")


def test_workers_start_with_interrupts_blocked(monkeypatch):
    def of_a_child():
        resource_tracker.ensure_running()  # as multiprocessing does before each start
        command = ["grep", "SigBlk", "/proc/self/status"]
        return int(subprocess.check_output(command, text=True).split()[1], 16)

    monkeypatch.setattr("perception_nodes.replay.workers._Lane.do", lambda _, name, work: work())
    with local_workers(1, lambda *_: None) as submit:
        blocked = submit("", of_a_child).result()
    assert all(blocked & 1 << number - 1 for number in FROM_TERMINAL)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(FROM_TERMINAL)


def test_a_list_is_relative_to_its_folder_and_a_drive_counts_once(drives, tmp_path):
    expected = [tmp_path / name for name in DRIVES]
    assert read_corpus(drives) == expected
    drives.write_bytes("\ufeffa\n./b\nb\nc\na\n".encode())
    assert read_corpus(drives) == expected


def test_every_drive_has_a_name_of_its_own(tmp_path):
    """A name that is taken is numbered, past those that are called so; dates are no suffixes."""
    named = ["x/rec.mcap", "rec~2.mcap", "y/rec.mcap", "2024.01.02.mcap", "2024.01.03.db3.zstd"]
    found = sources([tmp_path / name for name in named], [])
    assert [one.name for one in found] == "rec rec~2 rec~3 2024.01.02 2024.01.03".split()


# Jobs, without processes


class Here:
    """Does jobs in this process, but for those whose worker is to die."""

    def __init__(self, dies=()):
        self.dies = list(dies)
        self.done = []

    def __call__(self, name, work):
        future = Future()
        if name in self.dies:
            self.dies.remove(name)
            future.set_exception(WorkerDied("killed"))
            return future
        self.done.append(name)
        try:
            future.set_result(work(lambda *_: None))
        except Exception as error:
            future.set_exception(error)
        return future


def jobs(tmp_path, options=None, **settings):
    found = [DriveCamera(name, tmp_path / name, "") for name in DRIVES]
    made = ReplaySettings(**{"backend": "null", **settings})
    options = options or ReplayOptions(pictures=False)
    return jobs_of(found, tmp_path / "out", load_model(made.model), made, options, [])


def outcome(tmp_path, workers, **settings):
    return {result.name: result for result in done_by(workers, jobs(tmp_path, **settings))}


def done_by(workers, made):
    return replay_corpus(made, workers, len(DRIVES), lambda *_: None)


def test_work_whose_worker_dies_is_tried_again():
    def do():
        if lives.pop():
            return "done"
        raise WorkerDied("killed")

    lives = [True, *[False] * (ATTEMPTS - 1)]
    assert _tried(do) == "done"
    lives = [False] * ATTEMPTS
    with pytest.raises(WorkerDied, match=f"died {ATTEMPTS} times, the last time: killed"):
        _tried(do)
    assert not lives


def test_a_second_run_does_what_the_first_one_has_not(drives, tmp_path):
    first = outcome(tmp_path, Here(dies=["b"]))
    assert first["b"].error == "killed"
    again = Here()
    second = outcome(tmp_path, again)
    assert again.done == ["b"]
    assert second["a"].summary == first["a"].summary
    assert all(result.summary for result in second.values())


@pytest.mark.parametrize(
    "change", ["bag", "threshold", "option", "code", "runtime", "marker", "file gone", "file cut"]
)
def test_what_has_changed_is_done_again(drives, tmp_path, change, monkeypatch):
    outcome(tmp_path, Here())
    settings, options = {}, ReplayOptions(pictures=False)
    if change == "bag":
        os.utime(next((tmp_path / "a").glob("*.mcap")), ns=(0, 0))
    elif change == "threshold":
        settings = {"score_threshold": 0.5}
    elif change == "option":
        options = ReplayOptions(pictures=False, every=2)
    elif change == "marker":
        (tmp_path / "out/a/complete.json").write_text("{")
    elif change == "code":
        monkeypatch.setattr(corpus, "_code", lambda: "another")
    elif change == "runtime":
        monkeypatch.setattr(corpus, "version", lambda name: "99")
    elif change == "file gone":
        (tmp_path / "out/a/timing.csv").unlink()
    else:
        (tmp_path / "out/a/summary.json").write_text("{}")
    again = Here()
    results = list(done_by(again, jobs(tmp_path, options, **settings)))
    every = change in ("threshold", "option", "code", "runtime")
    assert again.done == (list(DRIVES) if every else ["a"])
    assert sorted(result.name for result in results) == list(DRIVES)


def test_a_machine_with_other_code_is_refused(drives, tmp_path, monkeypatch):
    made, ours = jobs(tmp_path), corpus._code()
    monkeypatch.setattr(corpus, "_code", lambda: "other")
    with pytest.raises(
        PerceptionError, match=f"code is other on .*, and {ours} where it was begun"
    ):
        corpus.run_job(made[0], lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_drives_and_outputs_in_a_store(drives, tmp_path):
    pytest.importorskip("obstore")
    replay("--corpus", drives, "--out", tmp_path / "local")
    drives.write_text("\n".join((tmp_path / name).as_uri() for name in ("a", "b", "gone")))
    out, times_ns = tmp_path / "out", []
    for _ in range(2):
        whole = replay("--corpus", drives.as_uri(), "--out", out.as_uri(), status=2)
        assert "gone does not exist" in whole["failed"]["gone"] and list(whole["drives"]) == [
            "a",
            "b",
        ]
        assert json.loads((out / "summary.json").read_text()) == whole
        times_ns.append([file.stat().st_mtime_ns for file in sorted(out.glob("*/*"))])
    assert times_ns[0] == times_ns[1]  # nothing was done again
    for name in "ab":
        here, there = (folder / name / "detections.mcap" for folder in (tmp_path / "local", out))
        assert there.read_bytes() == here.read_bytes()


def test_progress_says_how_fast_and_how_many_failed():
    shown = []
    progress = corpus_progress(lambda *told: shown.append(told), 2)
    for told in (("a", 5, 10), ("b", 0, 0), ("a", 10, 10), ("a", 1, 1)):
        progress(*told)
    assert [done for _, done, _, _ in shown] == [0.5, 1.5, 2.0, 2.0]
    assert re.fullmatch(r", \d+ frames/s", shown[0][3])
    assert re.fullmatch(r", \d+ frames/s, 1 failed", shown[-1][3])


def test_other_labels_and_other_classes_make_other_jobs(drives, tmp_path):
    """Though neither is in the name or the time of a file."""
    model = load_model("open-n")
    box = np.array([[0.1, 0.1, 0.2, 0.2]])
    image = LabelledImage(Path("0.png"), box, np.array([0]), np.array([False]))
    moved = replace(image, boxes=box + 0.1)
    sets = [LabelledSet("set", ("car",), (one,)) for one in (image, moved)]
    sets.append(replace(sets[0], counts_as={"car": ("car", "bus")}))
    models = [model, model.model_copy(update={"classes": ["tree"] * 8})]
    found = [DriveCamera("a", tmp_path / "a", "")]
    keys = [
        jobs_of(found, tmp_path, one, ReplaySettings(), ReplayOptions(labels=labels), [])[0].key
        for one in models
        for labels in (None, *sets)
    ]
    assert len(set(keys)) == len(keys)


def test_an_error_that_every_drive_would_have_is_raised(drives, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS, "faulty", faulty_backend.__name__)
    with pytest.raises(PerceptionError, match="faulty"):
        outcome(tmp_path, Here(), backend="faulty")


# Real processes that are killed


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A backend that takes its time, so that there is time to be killed in.

    Python imports `sitecustomize` when it starts: so all workers know the backend, Ray's too.
    """
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "from perception_nodes.faults import faulty_backend\nfaulty_backend.register()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{ROOT}")
    orders = tmp_path / "orders.json"
    Orders(inner="null", call_ms=150).write(orders)
    monkeypatch.setenv(VARIABLE, str(orders))


def start(drives, out, *arguments):
    options = ("--backend", "faulty", "--no-pictures", "--json", "--out", out, *arguments)
    command = (sys.executable, "-m", "perception_nodes", "replay", "--corpus", drives, *options)
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)


def descendants(pid):
    """Processes below one, and their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            found[int(entry.name)] = (parent, command)
    below, new = set(), {pid}
    while new:
        new = {child for child, (parent, _) in found.items() if parent in new} - below
        below |= new
    return {child: found[child][1] for child in below}


def wait_for_work(process, out):
    """Until a drive is being replayed."""
    until(lambda: process.poll() is not None or list(out.parent.rglob(".part-*/*.part")), 60)
    assert process.poll() is None


def kill_workers(process, named):
    """Kill all that have such a command line, as soon as there is one."""

    def victims():
        return [pid for pid, command in descendants(process.pid).items() if named in command]

    until(victims, 60)
    for pid in victims():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("names", [DRIVES, DRIVES[:1]])
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_killed_workers_cost_nothing_but_time(drives, tmp_path, slow, engine, names):
    drives.write_text("\n".join(names))
    if engine == "ray":
        pytest.importorskip("ray")
    out = tmp_path / "out"
    arguments = ("--workers", "2", *(("--ray", "local") if engine == "ray" else ()))
    process = start(drives, out, *arguments)
    try:
        wait_for_work(process, out)
        kill_workers(process, "ray::_ray_task" if engine == "ray" else "spawn_main")
        whole = json.loads(process.communicate(timeout=300)[0])
    finally:
        process.kill()
    assert process.returncode == 1  # the backend finds nothing
    check_whole(whole, out, names)


def test_interrupted_it_leaves_nothing_unfinished_and_is_taken_up_again(drives, tmp_path, slow):
    out = tmp_path / "out"
    process = start(drives, out, "--workers", "2")
    wait_for_work(process, out)
    workers = list(descendants(process.pid))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT
    assert not list(out.rglob(".part-*")) and not (out / ".lock").exists()
    for pid in workers:
        other = open_process(pid)
        assert other is None or other.wait(20_000), "a worker has outlived the command"
    process = start(drives, out, "--workers", "2")
    check_whole(json.loads(process.communicate(timeout=300)[0]), out)

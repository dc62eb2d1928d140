"""Many drives, distributed over workers, and their results in one table.

Each drive is a job with its own folder. When the job is done, a marker is written into the folder.
The marker holds a hash of everything that determines the result, so a second run keeps the results
that are still valid and does the rest. Work whose worker died is tried again. Only the marker
decides whether a drive is done, so none is counted twice.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from socket import gethostname
from typing import Any, NamedTuple

from perception_nodes.backends.contract import INSTALL
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.errors import InputError
from perception_nodes.core.statistics import latency_percentiles
from perception_nodes.drives.bag import RawFrame
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import Model
from perception_nodes.replay import outputs, tables
from perception_nodes.replay.background import Progress, Submit
from perception_nodes.replay.drawing import Read
from perception_nodes.replay.offline_camera import LoadedModel, ReplaySettings
from perception_nodes.replay.pieces import OneAfterTheOther, Piece, PiecesClock, detect
from perception_nodes.replay.run import DriveCamera, LockstepClocks, ReplayOptions, replay
from perception_nodes.report import charts, page
from perception_nodes.report.drive_report import verdict
from perception_nodes.report.timing import csv_text, read_work_ms
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole
from perception_nodes.system.object_path import ObjectPath, path_of, uploaded


@dataclass(frozen=True)
class Job:
    """A drive to replay.

    Attributes:
        source: the drive.
        folder: for its outputs; no other job uses it.
        settings, options: how it is replayed.
        made_by: hashes of the code and the model, and the versions of the packages that compute.
        key: hash of everything that determines the result.
    """

    source: DriveCamera
    folder: Path
    settings: ReplaySettings
    options: ReplayOptions
    made_by: dict[str, str]
    key: str


class Result(NamedTuple):
    """The summary of a drive, or the reason why there is none.

    Attributes:
        name: name of the drive.
        summary: as in its `summary.json`, or None.
        error: why there is no summary, else empty.
    """

    name: str
    summary: dict[str, Any] | None
    error: str = ""


class WorkerDied(InputError):
    """Workers ended without a result; the text gives the cause, as far as it is known."""


def read_corpus(file: Path) -> list[Path]:
    """Read a list of bags: a path or URL on each line, relative to the list; `#` starts a comment.

    A bag that is listed several times counts once.

    Raises:
        SettingsError: the file cannot be read, or lists nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--corpus {file} cannot be read: {error}") from error
    named = [line.partition("#")[0].strip() for line in lines]
    paths = [path_of(name) for name in named if name]
    paths = [one if isinstance(one, ObjectPath) else file.parent / one for one in paths]
    bags = {path.resolve(): path for path in paths}
    if not bags:
        raise SettingsError(f"--corpus {file} names no drive; write one path on each line")
    return list(bags.values())


def jobs_of(
    found: Sequence[DriveCamera],
    out: Path,
    model: Model,
    settings: ReplaySettings,
    options: ReplayOptions,
    inputs: Sequence[Path],
) -> list[Job]:
    """Make a job for each drive.

    Args:
        found: the drives.
        out: the folders of the drives are made in this folder.
        model: the model that is run.
        settings: how the model is run.
        options: how the drives are replayed.
        inputs: other files that determine the results: golden, calibration.
    """
    made_by = _made_by(model, settings.backend)
    shared = {
        **made_by,
        "settings": asdict(settings),
        "options": asdict(replace(options, golden=None, labels=None)),
        "inputs": [_fingerprint(file) for file in inputs],
        "labels": None if options.labels is None else _digest(options.labels),
    }
    jobs = []
    for source in found:
        facts = {**shared, "topic": source.topic, "bag": _fingerprint(source.path)}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        jobs.append(Job(source, out / source.name, settings, options, made_by, key))
    return jobs


def run_job(job: Job, progress: Progress, clock: LockstepClocks | None = None) -> Result:
    """Replay a drive in a worker, or here with a clock by which workers share its frames.

    Raises:
        ModelError, BackendError, SettingsError: the settings suit no drive, or this machine has
            other code, another model or other packages than the one that made the job.
    """
    name, loaded = job.source.name, _ready(job)
    try:
        with uploaded(job.folder, outputs.MARKER, outputs.OUTPUTS) as into:
            for left in into.glob(".part-*"):
                shutil.rmtree(left)  # left by a worker that was killed
            try:
                summary = replay(job.source, into, loaded, job.options, progress, clock)
            except OneAfterTheOther:
                summary = replay(job.source, into, loaded, job.options, progress)
            files = {file.name: file.stat().st_size for file in into.iterdir()}
            write_whole(into / outputs.MARKER, json.dumps({"job": job.key, "files": files}) + "\n")
    except (InputError, ModuleNotFoundError) as error:  # a machine may lack what another has
        return Result(name, None, str(error))
    except OSError as error:
        if not isinstance(job.folder, ObjectPath):
            raise
        return Result(name, None, f"its results cannot be stored: {error.strerror}")
    return Result(name, summary)


def replay_corpus(
    jobs: Sequence[Job], submit: Submit, workers: int, progress: Progress
) -> Iterator[Result]:
    """Do all jobs in workers; yields results as they come, those of an earlier run first.

    Args:
        jobs: the drives; several workers share the frames of a single one.
        submit: starts work in a worker.
        workers: their number.
        progress: called for each frame of a single drive.

    Raises:
        ModelError, BackendError, SettingsError: the settings suit no drive.
    """
    waiting: dict[Future[Result], Job] = {}
    for job in jobs:
        if (done := _done_before(job)) is not None:
            yield done
        else:
            if not isinstance(job.folder, ObjectPath):
                for name in (outputs.MARKER, *tables.TABLE_FILES):  # tables may be read alone
                    (job.folder / name).unlink(missing_ok=True)
            if len(jobs) == 1 < workers and not job.settings.second_look:
                yield run_job(job, progress, _sharing(job, submit, workers))
            else:
                waiting[submit(job.source.name, partial(run_job, job))] = job
    for future in as_completed(waiting):
        try:
            yield future.result()
        except WorkerDied as error:
            yield Result(waiting[future].source.name, None, str(error))


def merged(
    summaries: Mapping[str, dict[str, Any]],
    failed: Mapping[str, str],
    out: Path,
    drives: Sequence[Path],
) -> dict[str, Any]:
    """Write the results of several drives together: `summary.json`, tables and a page.

    What an earlier run has left of drives that now failed, or of a single drive in `out`, is
    removed: it would be taken for the result of this one.

    Args:
        summaries: by drive.
        failed: the reasons of drives without a summary.
        out: holds the folder of each drive.
        drives: the recorded drives, which are never removed.

    Returns:
        The content of `summary.json`: `totals`, `drives` and `failed`.
    """
    statuses: Counter[str] = Counter()
    sums: Counter[str] = Counter(frames_in=0, detections=0, lost_in_bag=0, golden_changes=0)
    works_ms: list[float] = []
    for name, summary in summaries.items():
        statuses.update(summary["status"])
        sums.update({key: summary[key] for key in ("frames_in", "detections", "lost_in_bag")})
        sums["golden_changes"] += len(summary.get("golden", {}).get("changes", ()))
        works_ms += read_work_ms(out / name)
    totals = {
        "drives": len(summaries) + len(failed),
        "failed_drives": len(failed),
        **sums,
        "status": dict(statuses),
        "latency_ms": latency_percentiles(works_ms, without=sums["frames_in"] - len(works_ms)),
    }
    whole = {"totals": totals, "drives": dict(summaries), "failed": dict(failed)}
    for folder in (out, *(out / name for name in failed)):
        outputs.remove_outputs(folder, drives)
    rows = [_row(name, summary) for name, summary in summaries.items()]
    rows += [{"drive": name, "error": reason} for name, reason in failed.items()]
    rows.sort(key=lambda row: str(row["drive"]))
    columns = list(tables.SCHEMAS["drives"])
    cells = ([row.get(column) for column in columns] for row in rows)
    write_whole(out / outputs.TABLE, csv_text([columns, *cells]))
    if tables.available():
        tables.write_table(out, "drives", rows)
    write_whole(out / outputs.SUMMARY_FILE, json.dumps(whole, indent=2) + "\n")
    deadline_ms = next((one["deadline_ms"] for one in summaries.values()), DEADLINE_MS)
    without: list[float | None] = [None] * (sums["frames_in"] - len(works_ms))
    work = charts.histogram([*works_ms, *without], deadline_ms)
    text = page.render("fleet.html.j2", verdict_of=verdict, work=work, **whole)
    write_whole(out / outputs.FLEET, text)
    return whole


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Lock a folder against a second run; it is removed at the end if it is new and empty.

    Raises:
        SettingsError: another run has locked it.
        OSError: it cannot be written to.
    """
    if isinstance(out, ObjectPath):  # stores have no locks
        yield
        return
    there, path = out.exists(), out / ".lock"
    out.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock file that another run has removed since we opened it locks nobody out.
            if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise FileNotFoundError(path)
        except OSError as error:
            remedy = "wait for it, or name another folder with --out"
            raise SettingsError(f"another replay writes to {out}; {remedy}") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if not there:
                with suppress(OSError):  # results are in it
                    out.rmdir()


def _ready(job: Job) -> LoadedModel:
    """The model of a job, which stays loaded for the next one; see `run_job` for errors."""
    loaded = _loaded(job.settings)
    made_by = _made_by(loaded.model, job.settings.backend)
    for what, wanted in job.made_by.items():
        if made_by[what] != wanted:
            found = f"{what} is {made_by[what]} on {gethostname()}, and {wanted} where it was begun"
            raise SettingsError(f"{found}; install the same on each machine of the cluster")
    return loaded


def _sharing(job: Job, submit: Submit, workers: int) -> LockstepClocks:
    # A worker needs no golden and no labels.
    slim = replace(job, options=replace(job.options, golden=None, labels=None))
    return partial(PiecesClock, submit=submit, work=partial(_piece, slim), in_advance=2 * workers)


def _piece(job: Job, read: Read, frames: list[RawFrame], progress: Progress) -> Piece:
    drawing = job.options.pictures and not job.options.video  # a video's are drawn in order
    return detect(_ready(job), job.key, read, frames, drawing, progress)


@lru_cache(maxsize=1)
def _loaded(settings: ReplaySettings) -> LoadedModel:
    return LoadedModel(settings, str(cache_folder()))


def _done_before(job: Job) -> Result | None:
    """The result of an earlier run, if it is of the same job and its files are complete."""
    try:
        marker = json.loads((job.folder / outputs.MARKER).read_text())
        sizes = {Path(name).name: size for name, size, _ in _fingerprint(job.folder)}
        there = all(sizes.get(name) == size for name, size in marker["files"].items())
        if marker["job"] == job.key and there:
            summary = json.loads((job.folder / outputs.SUMMARY_FILE).read_text())
            return Result(job.source.name, summary)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


@lru_cache(maxsize=1)
def _code() -> str:
    """Hash of this package's code."""
    package = Path(str(files("perception_nodes")))
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _made_by(model: Model, backend: str) -> dict[str, str]:
    """Hashes of code and model, and versions of the packages that compute and decode pictures."""
    made_by = {"code": _code(), "model": model.digest}
    names = ("numpy", "opencv-python", "opencv-python-headless", "simplejpeg", INSTALL.get(backend))
    for name in filter(None, names):
        with suppress(PackageNotFoundError):
            made_by[name] = version(name)
    return made_by


def _digest(labels: LabelledSet) -> str:
    """Hash of labels and of what they mean, wherever they are kept."""
    rules = {key: value for key, value in vars(labels).items() if key != "images"}
    rules |= {"counts_as": dict(labels.counts_as), "ignored": sorted(labels.ignored)}
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode())
    for image in labels.images:
        digest.update(str(image.path.resolve()).encode())
        for values in (image.boxes, image.classes, image.crowd):
            digest.update(values.tobytes())
    return digest.hexdigest()


def _fingerprint(path: Path) -> Sequence[tuple[str, int, int | str]]:
    """Names, sizes and modification times or tags of the files of a bag, which identify it."""
    if isinstance(path, ObjectPath):
        try:
            return path.versions()
        except OSError:  # its replay names the reason
            return [(secrets.token_hex(), 0, 0)]
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(file, file.stat()) for file in files if file.is_file()]
    return [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in found]


def _row(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    facts = {key: value for key, value in summary.items() if key in tables.SCHEMAS["drives"]}
    golden = {"golden_changes": len(summary["golden"]["changes"])} if "golden" in summary else {}
    latency, accuracy = summary["latency_ms"], summary.get("accuracy", {})
    figures = {"p50_ms": latency["p50"], "p99_ms": latency["p99"]}
    figures["map50_95"] = accuracy.get("map50_95")
    return {"drive": name, **facts, **summary["status"], **figures, **golden}

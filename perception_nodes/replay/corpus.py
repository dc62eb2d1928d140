"""Many drives, sharded over workers, and their results as one table.

Each drive is a job with a folder of its own, which a marker ends. The marker names all that the
result follows from, so that a second run takes over what is done and does the rest. What a worker
had in hand when it died is tried again; whether a drive counts is decided by its marker alone, so
that none counts twice.
"""

import csv
import fcntl
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from perception_nodes.backends.contract import INSTALL
from perception_nodes.backends.model import Model
from perception_nodes.core.statistics import latency_percentiles
from perception_nodes.drives.bag import BagError
from perception_nodes.evaluation import DataError
from perception_nodes.graph.config import SettingsError
from perception_nodes.preprocess.lens import UnknownLens
from perception_nodes.replay.golden import GoldenError
from perception_nodes.replay.offline_camera import LoadedModel, ReplaySettings
from perception_nodes.replay.run import Options, Source, made_with, replay
from perception_nodes.report.timing import read_work_ms
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole

ATTEMPTS = 3
MARKER = "complete.json"
SUMMARY = "summary.json"
TABLE = "drives.csv"
DRIVE_ERRORS = (BagError, DataError, GoldenError, UnknownLens)
"""What can be wrong with one drive, while the others can be replayed."""
Said = Callable[[str, int, int], None]
"""Called with a drive's name, its frames done and in all; in a worker, now and then."""


@dataclass(frozen=True)
class Job:
    """A drive to replay.

    Attributes:
        source: the drive.
        folder: for its outputs, used by this job alone.
        settings, options: how it is replayed.
        key: hash of all that the result follows from.
    """

    source: Source
    folder: Path
    settings: ReplaySettings
    options: Options
    key: str


class Result(NamedTuple):
    """What became of a drive: its summary, or why it has none.

    Attributes:
        name: of the drive.
        summary: as in its `summary.json`.
        error: empty where there is a summary.
    """

    name: str
    summary: dict[str, Any] | None
    error: str = ""


class WorkerDied(RuntimeError):
    """A worker ended without an answer; the text says how, as far as that is known."""


class Workers(Protocol):
    """Processes, here or elsewhere, that do jobs with `run_job`."""

    def submit(self, job: Job) -> "Future[Result]":
        """Have a job done; the future raises `WorkerDied` where its worker dies of it."""
        ...


def read_corpus(file: Path) -> list[Path]:
    """The bags that a list names, a line each, relative to the list's folder; `#` for remarks.

    One that is named several times is one bag.

    Raises:
        SettingsError: it cannot be read, or names nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--corpus {file} cannot be read: {error}") from error
    named = [line.partition("#")[0].strip() for line in lines]
    bags = {path.resolve(): path for path in (file.parent / name for name in named if name)}
    if not bags:
        raise SettingsError(f"--corpus {file} names no drive; write a path a line")
    return list(bags.values())


def jobs_of(
    found: Sequence[Source],
    out: Path,
    model: Model,
    settings: ReplaySettings,
    options: Options,
    inputs: Sequence[Path],
) -> list[Job]:
    """A job for each drive.

    Args:
        found: the drives.
        out: folder for their folders.
        model: that is run.
        settings: how it is run.
        options: how they are replayed.
        inputs: what the results follow from besides: golden, labels, calibration.
    """
    plain: dict[str, Any] = asdict(options.tolerance)
    for name, value in vars(options).items():
        if isinstance(value, bool | int | float | str | None):
            plain[name] = value
    shared = {
        "code": _code(),
        "runtimes": _versions(settings.backend),
        "made_with": made_with(model, settings),
        "settings": asdict(settings),
        "options": plain,
        "inputs": [_fingerprint(file) for file in inputs],
    }
    jobs = []
    for source in found:
        facts = {**shared, "topic": source.topic, "bag": _fingerprint(source.path)}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        jobs.append(Job(source, out / source.name, settings, options, key))
    return jobs


def run_job(job: Job, said: Said) -> Result:
    """Replay a drive, in a worker. The model stays loaded for the next one.

    Raises:
        ModelError, BackendError, SettingsError: no drive could be replayed so.
    """
    name = job.source.name
    (job.folder / MARKER).unlink(missing_ok=True)
    for left in job.folder.glob(".part-*"):
        shutil.rmtree(left)  # of a worker that was killed
    try:
        summary = replay(job.source, job.folder, _loaded(job.settings), job.options, said)
    except DRIVE_ERRORS as error:
        return Result(name, None, str(error))
    written = {file.name: file.stat().st_size for file in job.folder.iterdir()}
    write_whole(job.folder / MARKER, json.dumps({"job": job.key, "files": written}) + "\n")
    return Result(name, summary)


def replay_corpus(jobs: Sequence[Job], workers: Workers) -> Iterator[Result]:
    """Do all jobs; results come as they are had, those of an earlier run first.

    A job whose worker dies is tried again, `ATTEMPTS` times in all.

    Raises:
        ModelError, BackendError, SettingsError: no drive could be replayed so.
    """
    waiting: dict[Future[Result], tuple[Job, int]] = {}
    for job in jobs:
        done = _done_before(job)
        if done is not None:
            yield done
        else:
            waiting[workers.submit(job)] = (job, 1)
    while waiting:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            job, attempt = waiting.pop(future)
            try:
                yield future.result()
            except WorkerDied as error:
                if attempt < ATTEMPTS:
                    waiting[workers.submit(job)] = (job, attempt + 1)
                else:
                    reason = f"its worker died {ATTEMPTS} times, the last time: {error}"
                    yield Result(job.source.name, None, reason)


def merged(
    summaries: Mapping[str, dict[str, Any]], failed: Mapping[str, str], out: Path
) -> dict[str, Any]:
    """Write the results of several drives as one: `summary.json` and a table, `drives.csv`.

    Args:
        summaries: by drive.
        failed: why a drive has none.
        out: folder with a folder of each drive.

    Returns:
        What `summary.json` holds: `totals`, `drives` and `failed`.
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
        "latency_ms": latency_percentiles(works_ms),
    }
    whole = {"totals": totals, "drives": dict(summaries), "failed": dict(failed)}
    write_whole(out / TABLE, _table(summaries, failed))
    write_whole(out / SUMMARY, json.dumps(whole, indent=2) + "\n")
    return whole


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep a second run out of a folder.

    Raises:
        SettingsError: another one writes to it, or it cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise SettingsError(
            f"outputs cannot be written to {out}: {error.strerror}; name another folder with --out"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(
                f"another replay writes to {out}; wait for it, or name another folder with --out"
            ) from error
        yield


@lru_cache(maxsize=1)
def _loaded(settings: ReplaySettings) -> LoadedModel:
    return LoadedModel(settings, str(cache_folder()))


def _done_before(job: Job) -> Result | None:
    """The result of an earlier run, where it is that of the same job and all of it is there."""
    try:
        marker = json.loads((job.folder / MARKER).read_text())
        there = all(
            (job.folder / name).stat().st_size == size for name, size in marker["files"].items()
        )
        if marker["job"] == job.key and there:
            return Result(job.source.name, json.loads((job.folder / SUMMARY).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _code() -> str:
    """Hash of this package's code."""
    package = Path(str(files("perception_nodes")))
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _versions(backend: str) -> dict[str, str]:
    """Versions of what computes and of what reads pictures."""
    names = ("numpy", "opencv-python", "opencv-python-headless", "simplejpeg", INSTALL.get(backend))
    versions = {}
    for name in filter(None, names):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _fingerprint(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of the files: what tells a bag from another one."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(file, file.stat()) for file in files if file.is_file()]
    return [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in found]


def _table(summaries: Mapping[str, dict[str, Any]], failed: Mapping[str, str]) -> str:
    text = io.StringIO()
    rows = [_row(name, summary) for name, summary in summaries.items()]
    rows += [{"drive": name, "error": reason} for name, reason in failed.items()]
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(text, [*columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: str(row["drive"])))
    return text.getvalue()


def _row(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    latency, accuracy = summary["latency_ms"], summary.get("accuracy", {})
    return {
        "drive": name,
        "bag": summary["bag"],
        "topic": summary["topic"],
        "frames_in": summary["frames_in"],
        **summary["status"],
        "lost_in_bag": summary["lost_in_bag"],
        "detections": summary["detections"],
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "map50_95": accuracy.get("map50_95"),
        "golden_changes": len(summary["golden"]["changes"]) if "golden" in summary else None,
        "detections_sha256": summary.get("detections_sha256"),
        "error": None,
    }

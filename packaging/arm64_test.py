"""Tests what runs on arm64, on a machine with x86-64: `make arm64-test`, as root.

Our tests and commands run on an emulated machine, and what the networks compute there is compared
with what they compute here. Each check has a share of the time left. Parts: `arm64_machine.py`,
`arm64_checks.py`, `arm64_differences.py`.
"""

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from arm64_checks import CASES, CHECKS, FRAMES, Check, Cut
from arm64_machine import (
    INSIDE,
    NAMESPACES,
    ROOT,
    Failed,
    Machine,
    alone,
    inside,
    lacking,
    namespace,
    say,
)


def main() -> int:
    """Make the machine, run the checks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/perception-arm64"))
    parser.add_argument("--out", type=Path, default=ROOT / "out/arm64", help="gets the logs")
    parser.add_argument(
        "--only", nargs="+", default=[], help="checks with one of these in the name"
    )
    parser.add_argument("--minutes", type=int, default=60, help="ends what takes longer in all")
    parser.add_argument(
        "--frames",
        type=int,
        default=FRAMES[0],
        choices=FRAMES,
        help="of the sample that networks see (%(default)s), but for the replay of the sample",
    )
    parser.add_argument(
        "--cases", type=int, default=CASES, help="of each test at most (%(default)s)"
    )
    parser.add_argument("--command", help="run this in the machine instead of the checks")
    arguments = parser.parse_args()
    for name in ("minutes", "cases"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}: 1 or more")
    scratch, out = arguments.scratch.resolve(), arguments.out.resolve()
    try:
        names = chosen(arguments.only)
        if not inside():
            if lack := lacking(scratch):
                raise Failed(lack)
            os.environ[INSIDE] = namespace()
            os.execvp(NAMESPACES[0], [*NAMESPACES, sys.executable, *sys.argv])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # process 1 has no defaults
            signal.signal(number, signal.default_int_handler)
        end_s = time.monotonic() + 60 * arguments.minutes
        with alone(scratch):
            with limited(arguments.minutes):
                machine = Machine(scratch)
            if arguments.command:
                words = machine.words(["bash", "-c", arguments.command])
                return subprocess.run(words, check=False).returncode
            out.mkdir(parents=True, exist_ok=True)
            every = Check(machine, out, arguments.frames, arguments.cases)
            return check(every, names, end_s)
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        print(f"arm64_test: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("arm64_test: interrupted; nothing is mounted, what is whole is kept", file=sys.stderr)
        return 130


def chosen(only: Sequence[str]) -> list[str]:
    """The checks that have one of the words in their name; all if there is no word.

    Raises:
        Failed: a word is in no name.
    """
    for word in only:
        if not any(word in name for name in CHECKS):
            raise Failed(f"--only {word}: no check is named so; there are {'; '.join(CHECKS)}")
    return [name for name in CHECKS if not only or any(word in name for word in only)]


@contextmanager
def limited(minutes: int) -> Iterator[None]:
    """Have Failed raised when the time is up."""

    def over(*_: object) -> None:
        raise Failed(f"the machine was not made when the time was up (--minutes {minutes})")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(60 * minutes)
    try:
        yield
    finally:
        signal.alarm(0)


def processor_time_s() -> float:
    """What ended commands have used; a busy machine changes it less than the time they took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check(every: Check, names: Sequence[str], end_s: float) -> int:
    """Run checks, each in a share of the time left until `end_s`, and print what was seen.

    Returns: 1 unless all have passed and none was cut.
    """
    results = [{"check": name, "verdict": "CUT", "seen": "not begun"} for name in names]
    began_s = time.monotonic()
    for number, result in enumerate(results):
        keep(results, every.out)
        begin_s, begin_cpu_s, name = time.monotonic(), processor_time_s(), result["check"]
        share, do = CHECKS[name]
        limit_s = max(0.0, end_s - begin_s) * share
        every.end_s, every.log = begin_s + limit_s, every.out / f"{file_name(name)}.log"
        minutes = f"{(begin_s - began_s) / 60:.0f} min so far, up to {limit_s / 60:.1f} for it"
        say(f"{number + 1} of {len(results)}: {name} ({minutes})")
        result["verdict"], result["seen"] = outcome(every, do)
        result["seconds"], result["limit_seconds"] = seconds_since(begin_s), round(limit_s)
        result["processor_seconds"] = round(processor_time_s() - begin_cpu_s)
        print(f"   {result['verdict']}: {result['seen']}", flush=True)
    keep(results, every.out)
    print(page(results, seconds_since(began_s)))
    print(f"logs in {every.out}")
    return int(any(one["verdict"] != "ok" for one in results))


def outcome(every: Check, do: Callable[[Check], str]) -> tuple[str, str]:
    """The verdict on one check, and what was seen."""
    try:
        return "ok", do(every)
    except Cut as cut:
        return "CUT", f"{cut}; see {every.log}"
    except subprocess.TimeoutExpired:
        return "CUT", f"not done when its share of the time was over; see {every.log}"
    except Failed as failure:
        return "FAILED", f"{failure}; see {every.log}"
    except Exception as error:  # one check's fault is not the end of the others
        return "FAILED", f"{type(error).__name__}: {error}; see {every.log}"


def page(results: Sequence[Mapping[str, object]], lasted_s: int) -> str:
    """All that was seen: a line a check, and what was cut."""
    used_s = sum(one.get("processor_seconds", 0) for one in results)
    lines = [
        f"\narm64 in emulation, in {lasted_s / 60:.0f} minutes, {used_s / 60:.0f} of processor "
        "time; seconds, and those of processor time in brackets:"
    ]
    for one in results:
        lasted = f"{one.get('seconds', 0):5} s ({one.get('processor_seconds', 0):4})"
        lines.append(f"{one['verdict']:6} {lasted}  {one['check']}: {one['seen']}")
    counts = Counter(one["verdict"] for one in results)
    lines.append(f"{counts['ok']} passed, {counts['FAILED']} failed, {counts['CUT']} cut")
    if cut := [one["check"] for one in results if one["verdict"] == "CUT"]:
        lines.append(f"Cut, since the time was over (--minutes): {'; '.join(cut)}")
    return "\n".join(lines)


def file_name(name: str) -> str:
    """A check's name as that of a file."""
    return re.sub("[^a-z0-9]+", "-", name.lower())


def seconds_since(begin_s: float) -> int:
    """Whole seconds since an instant, monotonic."""
    return round(time.monotonic() - begin_s)


def keep(results: Sequence[Mapping[str, object]], out: Path) -> None:
    """Write what is known so far."""
    part = out / "results.json.part"
    part.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    part.replace(out / "results.json")


if __name__ == "__main__":
    sys.exit(main())

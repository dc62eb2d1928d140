"""Fuzzes the readers for a long time: `make fuzz`, or

    .venv/bin/python test/fuzz/long_run.py --inputs 10_000_000 --minutes 60

Input that a reader neither accepts nor refuses is written to out/fuzz/ and ends the run.
"""

import argparse
import random
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(TESTS / folder) for folder in ("backends", "drives", "networks", "transport")]

from file_readers import FILE_READERS  # noqa: E402
from mutation import mutated  # noqa: E402
from readers import READERS, accepts  # noqa: E402

BATCH = 2000
SLOW = {
    "lens of a CameraInfo": 50,
    "CompressedVideo": 50,
    "FFMPEGPacket": 50,
    **dict.fromkeys(FILE_READERS, 50),
    "drive.bag": 100,
    "ONNX file to import": 100,
    "scenario file": 250,
}
"""Slow readers: they get a batch in one of this many rounds."""


def main() -> int:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    arguments = parser.parse_args()
    source = random.Random(arguments.seed)
    readers = READERS | FILE_READERS
    counts = {name: [0, 0] for name in readers}
    end_s = time.monotonic() + 60 * arguments.minutes
    done = turn = 0
    while done < arguments.inputs and time.monotonic() < end_s:
        for name, (read, seeds) in readers.items():
            if turn % SLOW.get(name, 1):
                continue
            for _ in range(BATCH):
                data = mutated(source.choice(seeds), source)
                try:
                    taken = accepts(read, data)
                except Exception as error:
                    arguments.out.mkdir(parents=True, exist_ok=True)
                    path = arguments.out / f"{name.replace(' ', '_')}.bin"
                    path.write_bytes(data)
                    print(f"{name}: {type(error).__name__}: {error}; the message is in {path}")
                    return 1
                counts[name][taken] += 1
            done += BATCH
        turn += 1
    for name, (refused, taken) in counts.items():
        print(f"{name}: {taken:,} taken, {refused:,} refused with a reason")
    print(f"{done:,} inputs, no crash, nothing read outside a message")
    return 0


if __name__ == "__main__":
    sys.exit(main())

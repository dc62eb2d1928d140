"""Fuzzes the readers for a long time: `make fuzz`, or

    .venv/bin/python test/fuzz/long_run.py --inputs 10_000_000 --minutes 60

Input that a reader neither accepts nor refuses is written to out/fuzz/ and ends the run.
"""

import random
import sys
import time
from pathlib import Path

import typer

TESTS = Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(TESTS / folder) for folder in ("core", "drives", "networks", "transport")]

from file_readers import FILE_READERS  # noqa: E402
from mutation import mutated  # noqa: E402
from readers import READERS, accepts  # noqa: E402

OUT = Path("out/fuzz")
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


def main(inputs: int = 10_000_000, minutes: float = 60.0, seed: int = 0, out: Path = OUT) -> None:
    """Fuzz the readers until so many inputs or minutes have passed."""
    source = random.Random(seed)
    readers = READERS | FILE_READERS
    counts = {name: [0, 0] for name in readers}
    end_s = time.monotonic() + 60 * minutes
    done = turn = 0
    while done < inputs and time.monotonic() < end_s:
        for name, (read, seeds) in readers.items():
            if turn % SLOW.get(name, 1):
                continue
            for _ in range(BATCH):
                data = mutated(source.choice(seeds), source)
                try:
                    taken = accepts(read, data)
                except Exception as error:
                    out.mkdir(parents=True, exist_ok=True)
                    path = out / f"{name.replace(' ', '_')}.bin"
                    path.write_bytes(data)
                    print(f"{name}: {type(error).__name__}: {error}; the message is in {path}")
                    sys.exit(1)
                counts[name][taken] += 1
            done += BATCH
        turn += 1
    for name, (refused, taken) in counts.items():
        print(f"{name}: {taken:,} taken, {refused:,} refused with a reason")
    print(f"{done:,} inputs, no crash, nothing read outside a message")


if __name__ == "__main__":
    typer.run(main)

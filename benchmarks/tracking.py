"""Follow objects whose tracks are known: identities, errors of predictions, processor time.

.venv/bin/python benchmarks/tracking.py [FOLDER...]

FOLDER is a sequence of MOTChallenge (gt/gt.txt, det/det.txt, seqinfo.ini), whose detections are
followed; without one, generated drives of each kind are. Prints a line of JSON a drive; see
`track_scores.evaluate_tracks` for what it holds.
"""

import argparse
import json
import sys
from pathlib import Path

from track_scores import evaluate_tracks
from tracked_drives import GENERATED, TracksError, generated, read_mot


def main() -> int:
    """Print what was measured; return 2 where a sequence cannot be read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--objects", type=int, default=30, help="in a generated drive")
    given = parser.parse_args()
    try:
        drives = [read_mot(folder) for folder in given.folders]
    except TracksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for drive in drives or [generated(name, given.objects) for name in GENERATED]:
        print(json.dumps({"drive": drive.name, **evaluate_tracks(drive)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

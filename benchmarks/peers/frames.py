"""The drive of the benchmark: decoded once, and written as the messages that the camera sends."""

import json
from pathlib import Path
from typing import Any

from perception_nodes.core.frame import FrameRejected
from perception_nodes.drives.bag import BagError, open_drive
from perception_nodes.drives.image_messages import image_message
from perception_nodes.drives.schemas import IMAGE
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet
from perception_nodes.preprocess.converter import Converter
from perception_nodes.replay.accuracy import images_by_frame
from perception_nodes.transport.cdr_reader import read_stamp

AS_THEY_ARE = ("bgr8", "rgb8")
"""Encodings that every detector takes; frames of all others are converted to bgr8."""
MOST_BYTES = 512 << 20
"""Frames are kept up to this size; the camera begins anew behind the last one."""
PLAIN_HZ = 30.0


def prepare(
    bag: Path, topic: str, folder: Path, truth: LabelledSet | None = None
) -> tuple[dict[str, Any], dict[int, LabelledImage]]:
    """Write the frames of a drive for `camera.py`.

    Args:
        bag: as for `open_drive`.
        topic: of its images; empty for the one with the most frames.
        folder: for the files.
        truth: labels of its frames.

    Returns:
        What is told of the drive: `drive`, `width`, `height`, its own rate `hz`, number of
        `frames`, and `warnings`; and the labelled images by the number of the frame.

    Raises:
        BagError: it has no frame that can be used.
        DataError: no frame of it has labels.
    """
    places: list[tuple[int, int]] = []
    times_ns: list[int] = []
    stamps_ns: dict[int, int] = {}
    size, rejected, is_cut, info = (0, 0), 0, False, b""
    converter = Converter()
    with open_drive(bag, topic) as drive, (folder / "frames.bin").open("wb") as file:
        for frame in drive.frames():
            try:
                view = drive.read(frame.data)
                is_plain = drive.message_type == IMAGE and view.encoding in AS_THEY_ARE
                pixels = None if is_plain else converter.convert(view)
            except FrameRejected:
                rejected += 1
                continue
            shape = (view.width, view.height) if pixels is None else pixels.shape[1::-1]
            size = size if any(size) else tuple(shape)
            if tuple(shape) != size:  # a detector may be started for one size alone
                rejected += 1
                continue
            data = frame.data if pixels is None else image_message(0, pixels)
            if places and file.tell() + len(data) > MOST_BYTES:
                is_cut = True
                break
            begin = file.tell()
            file.write(data)
            places.append((begin, file.tell()))
            times_ns.append(frame.log_time_ns)
            stamps_ns[frame.index] = read_stamp(frame.data)
            info = info or frame.camera_info or b""
        if not places:
            raise BagError(f"{bag}: none of its {rejected} frames can be used; name another drive")
        warnings = [*drive.warnings]
        images = images_by_frame(truth, drive, stamps_ns) if truth is not None else {}
    if rejected:
        warnings.append(f"{bag}: {rejected} frames are left out: damaged, or of another size")
    passed_s = (times_ns[-1] - times_ns[0]) / 1e9
    if is_cut:
        warnings.append(
            f"{bag}: only the first {len(places)} frames ({passed_s:.1f} s) are played: more do "
            f"not fit in {MOST_BYTES >> 20} MiB"
        )
    about = {
        "drive": str(bag),
        "width": size[0],
        "height": size[1],
        "hz": round((len(places) - 1) / passed_s, 3) if passed_s > 0 else PLAIN_HZ,
        "frames": len(places),
        "warnings": warnings,
    }
    (folder / "info.bin").write_bytes(info)
    (folder / "about.json").write_text(json.dumps({**about, "places": places}))
    return about, {n: images[index] for n, index in enumerate(stamps_ns) if index in images}

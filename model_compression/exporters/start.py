"""Starts the exporter of a checkpoint, for `perception model import`.

The process of the command loads none of the tools itself.
"""

import signal
import subprocess
import sys
from pathlib import Path

from perception_nodes.networks.model import ModelError
from perception_nodes.system.children import end, start
from perception_nodes.system.environment import cache_folder

FOLDER = "perception_exporters"
"""The folder of the environment, beside the cache: no limit of that may remove a part of it."""

KILLED = 128 + signal.SIGKILL


def export_checkpoint(file: Path, size: tuple[int, int] | None, folder: Path) -> Path:
    """Export a checkpoint, in an environment that is made where it is missing.

    Args:
        file: the checkpoint.
        size: width and height of the input; None for those that it was trained with.
        folder: where the ONNX file goes.

    Raises:
        ModelError: it cannot be read or exported, or there is no environment for it.
    """
    if not file.is_file():
        raise ModelError(f"{file} is not there")
    script = Path(__file__).with_name("environment.py")
    made = folder / "exported.onnx"
    sizes = [] if size is None else [f"{size[0]}x{size[1]}"]
    command = (
        sys.executable,
        "-I",
        script,
        cache_folder().with_name(FOLDER),
        file.absolute(),
        made,
        *sizes,
    )
    process = start([str(one) for one in command], stdout=subprocess.PIPE)
    try:
        said = process.communicate()[0].decode().strip()
    except BaseException:
        end(process)
        raise
    if process.returncode:
        died = f"{file} cannot be exported: its exporter ended with {process.returncode}"
        if process.returncode == KILLED:
            died += ", which is what a lack of memory looks like"
        raise ModelError(said or f"{died}; export it to ONNX where it was trained")
    return made

"""Camera calibration files, in the format of the ROS package camera_calibration."""

from pathlib import Path
from typing import Any

import yaml

from perception_nodes.core.frame import CameraInfo
from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.preprocess.lens import UnknownLens, lens_from
from perception_nodes.system.files import read_file

MAX_BYTES = 1 << 20


def read_calibration(path: str | Path) -> CameraInfo:
    """Read a calibration and check that frames can be rectified with it.

    Raises:
        UnknownLens: the file cannot be read, lacks a key, or its lens is not supported.
    """
    try:
        values: Any = parse_yaml(read_file(Path(path), MAX_BYTES).decode())
        if not isinstance(values, dict):
            raise UnknownLens(
                f"calibration {path} holds no keys; name a file that camera_calibration has written"
            )
        info = CameraInfo(
            int(values["image_width"]),
            int(values["image_height"]),
            str(values["distortion_model"]),
            tuple(float(number) for number in values["distortion_coefficients"]["data"]),
            tuple(float(number) for number in values["camera_matrix"]["data"]),
        )
    except KeyError as error:
        raise UnknownLens(f"calibration {path}: key {error} is missing") from error
    except (OSError, OverflowError, RecursionError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UnknownLens(f"calibration {path}: {' '.join(str(error).split())}") from error
    if len(info.matrix) != 9:
        raise UnknownLens(f"calibration {path}: camera_matrix has {len(info.matrix)} values, not 9")
    lens_from(info)
    return info

"""Short drives in three formats for `fleet_test.py`, made of the sample drive, and a longer one."""

import shutil
from pathlib import Path

from fleet_machines import ROOT
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

FRAMES = 30
STORE = get_typestore(Stores.ROS2_KILTED)
ROS1_STORE = get_typestore(Stores.ROS1_NOETIC)
LONG = "long.mcap"
NAMES = ("plain.mcap", "folder", "older.bag", LONG)
"""As a list of drives names them; the replays' names are those without a suffix."""


def write_drives(folder: Path) -> None:
    """Write the drives into a new folder."""
    folder.mkdir()
    sample = ROOT / "bags/sample"
    shutil.copyfile(sample / "sample.mcap", folder / LONG)
    with (
        AnyReader([sample], default_typestore=STORE) as reader,
        Ros2Writer(folder / "plain", version=9, storage_plugin=StoragePlugin.MCAP) as plain,
        Ros2Writer(folder / "folder", version=9, storage_plugin=StoragePlugin.SQLITE3) as sqlite3,
        Ros1Writer(folder / "older.bag") as older,
    ):
        camera = [one for one in reader.connections if one.topic.endswith("image_raw")]
        topic, kind = camera[0].topic, camera[0].msgtype
        ros2 = [(one, one.add_connection(topic, kind, typestore=STORE)) for one in (plain, sqlite3)]
        ros1 = older.add_connection(topic, kind, typestore=ROS1_STORE)
        for _, (_, time_ns, data) in zip(range(FRAMES), reader.messages(camera), strict=False):
            for writer, connection in ros2:
                writer.write(connection, time_ns, data)
            older.write(ros1, time_ns, STORE.cdr_to_ros1(data, kind))
    (folder / "plain/plain.mcap").rename(folder / "plain.mcap")
    shutil.rmtree(folder / "plain")

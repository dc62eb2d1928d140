"""Files that stand as long as a graph runs."""

import os
import shutil
from pathlib import Path

import pytest

from perception_nodes.transport.channels import NumberedRecords
from perception_nodes.transport.domain import config_of, own_domain, own_prefix
from perception_nodes.transport.lease import Lease
from perception_nodes.transport.memory import SHM_FOLDER
from perception_nodes.transport.notes import Notes
from perception_nodes.transport.standing import removed_file

pytestmark = pytest.mark.usefixtures("ros_domain")


@pytest.mark.parametrize("what", ["*.lease", "*.journal", "*.dynamic", "*.node_monitor"])
def test_what_a_process_uses_must_stand(what, join, closed):
    endpoint = join()
    closed(NumberedRecords(endpoint, "front", "detector", 1))
    closed(Lease("front", "detector"))
    Path(SHM_FOLDER / f"{own_prefix()}other.lease").touch()
    assert removed_file(endpoint.number) == ""
    (SHM_FOLDER / f"{own_prefix()}other.lease").unlink()
    assert removed_file(endpoint.number) == "", "it is not ours"
    nodes = Path(config_of(own_domain()).global_cfg.node_dir.to_string())
    found = [*SHM_FOLDER.glob(f"{own_prefix()}{what}"), *nodes.glob(f"{own_prefix()}{what}")]
    replaced = found[0].with_name("copy")
    shutil.copy(found[0], replaced)
    for path in found:
        path.unlink()
    if "monitor" not in what:
        replaced.rename(found[0])
    assert removed_file(endpoint.number) in map(str, found)
    replaced.unlink(missing_ok=True)


def test_a_file_that_is_cut_stands_no_more_and_ends_no_supervisor(closed):
    closed(Lease("front", "detector"))
    notes = closed(Notes("front", of_supervisor=True))
    for path in SHM_FOLDER.glob(f"{own_prefix()}front*"):
        os.truncate(path, 0)
    notes.tell_lines_dropped()  # to write to what is cut ends a process
    assert removed_file().endswith("front_detector.lease")

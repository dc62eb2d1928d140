"""What another user can do to our shared memory: nothing but keep us from starting."""

import os
from pathlib import Path

import iceoryx2 as iox2
import pytest
from channel_ends import Number
from other_user import NOBODY, needs_root, opened_by

from perception_nodes.system.life import own_incarnation
from perception_nodes.transport.claim import Claim
from perception_nodes.transport.domain import config_of, keep_folder
from perception_nodes.transport.journal import Journal, journal_of, journals
from perception_nodes.transport.lease import Lease
from perception_nodes.transport.memory import SHM_FOLDER, TransportError

pytestmark = [pytest.mark.usefixtures("ros_domain"), needs_root]


def test_another_user_can_open_nothing(join, domain, closed):
    endpoint = join()
    endpoint.writer("c", Number, 1000, depth=2)
    endpoint.reader("c", Number, depth=2)
    claim = Claim("front", "it")
    closed(Journal("front", "detector"))
    closed(Lease("front", "x"))
    folder = Path(config_of(domain).global_cfg.root_path.to_string())
    names = (f"perception{domain}_*", f"perception_graph{domain}_*")
    files = [path for name in names for path in SHM_FOLDER.glob(name)]
    files += [path for path in folder.rglob(names[0]) if not path.is_dir()]
    readable = opened_by(0, files)
    others = opened_by(NOBODY, files)
    claim.release()
    assert {str(path) for path in files} == readable
    assert len(files) > 12
    assert others == set()


def planted(path: Path, mode: int = 0o666) -> None:
    """Put a file of another user there."""
    path.write_bytes(bytes(10_000))
    path.chmod(mode)
    os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize("mode", [0o666, 0o600])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("perception{}_front_detector.lease", lambda: Lease("front", "detector")),
        ("perception_graph{}_front.lock", lambda: Claim("front", "it")),
    ],
    ids=["lease", "claim"],
)
def test_a_file_of_another_user_is_not_used(domain, name, make, mode):
    path = SHM_FOLDER / name.format(domain)
    planted(path, mode)
    try:
        with pytest.raises(TransportError, match=f"{path} is another user's"):
            make()
    finally:
        path.unlink()


def test_a_link_is_not_followed(tmp_path, domain):
    target, path = tmp_path / "ours", SHM_FOLDER / f"perception{domain}_front_detector.lease"
    target.write_bytes(b"ours")
    path.symlink_to(target)
    try:
        with pytest.raises(TransportError, match="is another user's"):
            Lease("front", "detector")
    finally:
        path.unlink()
    assert target.read_bytes() == b"ours"


def test_journals_of_another_user_are_not_read(domain, closed):
    closed(Journal("front", "detector"))
    path = journal_of("front", "detector", 1)
    planted(path)
    odd = path.with_name(path.name.replace(f"{1:016x}", "not_a_number"))
    planted(odd)
    found = journals("front", "detector")
    path.unlink()
    odd.unlink()
    assert set(found) == {own_incarnation()}


@pytest.mark.parametrize(("user", "mode"), [(NOBODY, 0o700), (0, 0o777), (0, "link")])
def test_a_folder_of_another_user_is_not_used(tmp_path, domain, user, mode):
    folder, config = tmp_path / "iceoryx2", config_of(domain)
    if mode == "link":
        folder.symlink_to(tmp_path)
    else:
        folder.mkdir()
        folder.chmod(mode)
        os.chown(folder, user, user)
    config.global_cfg.root_path = iox2.Path.new(str(folder))
    with pytest.raises(TransportError, match=f"{folder} is another user's"):
        keep_folder(config)

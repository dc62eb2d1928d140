"""The environment that exports checkpoints: whole or not there, and not made in vain."""

import shutil

import pytest

from model_compression.exporters import environment
from model_compression.exporters.start import export_checkpoint
from perception_nodes.networks.model import ModelError


@pytest.mark.parametrize(("free", "said"), [(10**9, "has 1.0 GB free"), (10**10, "pip fails")])
def test_an_environment_is_whole_or_not_there(free, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, free))
    with pytest.raises(environment.CannotBeMade, match=said):
        environment.made_in(tmp_path / "made")
    assert "once: it has 1.7 GB" in capsys.readouterr().err  # said before it is begun
    assert not list((tmp_path / "made").iterdir())


def test_weights_alone_are_refused_at_once(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.touch()
    with pytest.raises(ModelError, match="has weights alone"):
        export_checkpoint(weights, None, tmp_path)
    assert [*tmp_path.iterdir()] == [weights]

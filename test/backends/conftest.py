"""A model, and street frames for all tests here."""

import pytest
from street_frames import every, street_frames

from perception_nodes.networks.model import load_model


@pytest.fixture(scope="module")
def model():
    return load_model("open-n")


@pytest.fixture(scope="module")
def streets(model):
    """Every 20th frame of the sample drive; see `street_frames`."""
    return list(street_frames(model, every(20)))

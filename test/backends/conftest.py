"""Street frames for all tests here."""

import pytest
from street_frames import every, street_frames


@pytest.fixture(scope="module")
def streets(model):
    """Every 20th frame of the sample drive; see `street_frames`."""
    return list(street_frames(model, every(20)))

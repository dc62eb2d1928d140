"""A domain of its own for each test that starts a graph."""

import pytest
from own_domain import own_domain

domain = pytest.fixture(own_domain)

"""Where a run's networks come from: nothing that they are made of gets lost from their licence."""

import pytest

from model_compression.config import read_config
from model_compression.origin import IN_PART, Origin, origin_of

AGPL = "AGPL-3.0 License (https://ultralytics.com/license)"


@pytest.fixture
def origin(values, write_config, tmp_path, data):
    """Origin of the usual run with some values changed, and files that say their licence."""
    (data / "labeller.pt").touch()

    def make(files=(), images="CC0", **changes) -> Origin:
        given = {**values, "license": "MIT", **changes}
        given["sources"] = [{**values["sources"][0], "license": images}]
        config = read_config(write_config(given), lambda _: [])
        return origin_of(config, lambda path: dict(files).get(path.name, ""))

    return make


def test_all_free_is_free(origin):
    found = origin()
    assert found.license == "MIT"
    assert found.data == (("not stated (through the weights of random.pt)", "MIT"), ("set", "CC0"))


@pytest.mark.parametrize("images", ["CC BY-NC 4.0", "BDD100K terms", "GPL-3.0", "unknown"])
def test_images_that_are_not_permissive_are_told(origin, images):
    assert origin(images=images).license == f"MIT{IN_PART}"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"labeller.pt": AGPL}, f"MIT and {AGPL}"),
        ({"labeller.pt": "MIT"}, "MIT"),
        ({}, "unknown in part; else MIT"),
    ],
)
def test_a_labeller_is_named_with_its_terms(origin, files, said):
    found = origin(files, labeller="labeller.pt")
    assert found.license == said
    assert ("labels by labeller.pt", files.get("labeller.pt", "unknown")) in found.data


def test_what_a_teacher_says_itself_is_not_lost(origin):
    assert origin({"random.pt": AGPL}).license == f"MIT and {AGPL}"
    stated = "AGPL-3.0 (started from Ultralytics weights)"
    assert origin({"random.pt": AGPL}, license=stated).license == stated

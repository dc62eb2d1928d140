"""Terms of use: only licences that are known as permissive let a product be made."""

import pytest

from perception_nodes.networks.terms import Terms, materials, says_more, terms_of


@pytest.mark.parametrize(
    ("license", "terms"),
    [
        ("Apache-2.0", Terms.PERMISSIVE),
        ("apache license\n2.0", Terms.PERMISSIVE),
        ("CC0 1.0 and DbCL-1.0", Terms.PERMISSIVE),
        ("CC0 1.0 and CC-BY-4.0", Terms.ATTRIBUTION),
        ("CC BY 2.0", Terms.ATTRIBUTION),
        ("ODbL v1.0", Terms.SHARE_ALIKE),
        ("MIT; BSD-3-Clause", Terms.PERMISSIVE),
        ("our own", Terms.PERMISSIVE),
        ("MIT/Apache-2.0", Terms.PERMISSIVE),
        ("Apache-2.0; the file says AGPL-3.0 License", Terms.COPYLEFT),
        ("AGPL-3.0 (evaluation only)", Terms.OTHER),
        ("CC BY-SA 4.0 (research use only)", Terms.OTHER),
        ("annotations CC BY 4.0, images of Flickr under their own terms", Terms.JUDGED),
        (
            "weights of permissive licences, images of ImageNet for non-commercial research",
            Terms.JUDGED,
        ),
        ("weights of a permissive licence, images that Intel does not name", Terms.JUDGED),
        ("images of Flickr under their own terms", Terms.OTHER),
        ("AGPL-3.0 (started from Ultralytics weights)", Terms.COPYLEFT),
        ("AGPL-3.0 License (https://ultralytics.com/license)", Terms.COPYLEFT),
        ("MIT and CC BY-SA 4.0", Terms.SHARE_ALIKE),
        ("CC BY-NC 4.0", Terms.OTHER),
        ("CC BY-NC-SA 3.0", Terms.OTHER),
        ("MIT, for personal use only", Terms.OTHER),
        ("BDD100K terms", Terms.OTHER),
        ("AGPL-3.0 and CC BY-NC 4.0", Terms.OTHER),
        ("", Terms.UNSTATED),
        ("not stated", Terms.UNSTATED),
        ("MIT and unknown", Terms.UNSTATED),
        ("unknown in part; else MIT", Terms.UNSTATED),
    ],
)
def test_what_is_on_no_list_is_not_permissive(license, terms):
    assert terms_of(license) == terms


@pytest.mark.parametrize(
    ("license", "other", "more"),
    [
        (
            "AGPL-3.0 License (https://ultralytics.com/license)",
            "AGPL-3.0 (started from Ultralytics weights)",
            False,
        ),
        ("MIT (non-commercial)", "MIT", True),
        ("(proprietary)", "MIT", True),
        ("License", "MIT", True),
        ("AGPL-3.0", "Apache-2.0", True),
        ("AGPL-3.0", "Apache-2.0 and AGPL-3.0", False),
        ("unknown", "MIT", True),
        ("", "MIT", False),
    ],
)
def test_one_licence_says_more_than_another(license, other, more):
    assert says_more(license, other) == more


def test_material_without_a_licence_is_listed_as_such():
    found = materials("CC0", [{"name": "a", "license": "MIT"}, {"name": "b"}, "c"])
    assert found == [("these weights", "CC0"), ("a", "MIT"), ("b", "not stated")]
    assert materials("CC0", None) == found[:1]

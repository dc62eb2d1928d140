"""The page of a model: it names what a user must not count on."""

import re
from html import unescape

import pytest
import yaml
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.evaluation.matching import HEIGHT_BANDS_PX
from perception_nodes.evaluation.model_card import render
from perception_nodes.evaluation.stated_accuracy import stated_accuracy
from perception_nodes.networks.model import ModelError, load_model

MODEL = load_model("open-n")
COCO = "annotations CC BY 4.0, images of Flickr under their own terms"
CLASSES = [name for name in MODEL.classes if name != "bicycle"]


def measured(recall=0.9, small=0.7, dark=120, precision=0.8):
    def score(objects, map50):
        return {"objects": objects, "map50": map50}

    return {
        "images": 10,
        "map50_95": 0.5,
        "map50": 0.7,
        "confidence": [0.4, 0.6],
        "precision": precision,
        "classes": {name: {**score(20, 0.7), "recall": 0.9} for name in CLASSES}
        | {"pedestrian": {**score(30, 0.5), "recall": recall}},
        "heights": {band: score(20, 0.7) for band in HEIGHT_BANDS_PX} | {"<16": score(20, small)},
        "light": {"bright": score(99, 0.7), "dark": score(dark, 0.7)},
    }


def weaknesses(*sets):
    accuracy = {f"set {number}": facts for number, facts in enumerate(sets)}
    page = render(MODEL, accuracy, None).partition("Where it is weak")[2]
    items = re.findall("<li>(.*?)</li>", page.partition("</section>")[0])
    return [unescape(item) for item in items]


def test_what_is_weak_is_named_and_nothing_else():
    bicycles = "No evidence of bicycle: fewer than 10 such objects."
    assert weaknesses(measured()) == [bicycles]
    # Both sets count by their objects, and a class by its usual name: 2 * 20 * 0.9 + 30 * 0.8.
    assert weaknesses(measured(), measured(recall=0.0)) == [bicycles]
    assert weaknesses(measured(recall=0.0, small=0.1, dark=3, precision=0.3)) == [
        "Of 50 labelled objects of person it reports 36%.",
        bicycles,
        "Objects of less than 16 px in its input (less than 74 px in a frame of 1920 × 1080): "
        "AP50 0.10, of others up to 0.70.",
        "Of its reports 30% to 30% are labelled, by set: the others are false alarms, or objects "
        "that nobody has labelled.",
        "No evidence at night: 3 labelled objects on dark images.",
    ]


@pytest.mark.parametrize(
    ("license", "data", "tone", "said"),
    [
        ("Apache-2.0", "CC0", "good", "may be used in products"),
        ("Apache-2.0", COCO, "good", "is for each company to judge"),
        ("Apache-2.0", "CC BY-SA 4.0", "fair", "under the same licence"),
        ("AGPL-3.0", "CC0", "fair", "only with its source"),
        ("Apache-2.0", None, "bad", "nobody has said"),
        ("unknown: ask", "CC0", "bad", "nobody has said"),
    ],
)
def test_the_strictest_licence_decides_the_tone(tmp_path, license, data, tone, said):
    given = yaml.safe_load((MODEL.folder / "model.yaml").read_text())
    given["data"] = [{"name": "yard", "license": data}, {"name": "road"} | {"license": "CC0"}]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(given))
    (tmp_path / MODEL.file).write_bytes(b"")
    page = render(MODEL.model_copy(update={"license": license, "folder": tmp_path}), {}, None)
    assert f'class="verdict {tone}"' in page and said in page
    assert "Nobody has measured it" in page
    yard = page.partition("yard")[2].partition("road")[0]
    assert "None" not in yard and ("not stated" in yard) == (data is None)


@pytest.mark.parametrize(
    ("accuracy", "text"),
    [
        ({"coco": 0.3}, "accuracy.coco: it must be"),
        ({"coco": {"map50_95": 0.3}}, "accuracy.coco.images: it is missing"),
        (
            {"coco": measured() | {"classes": {"car": {"objects": 3, "map50": 0.4}}}},
            "accuracy.coco.classes.car.recall: it is missing",
        ),
        (
            {"coco": measured() | {"heights": {"9-17": {"objects": 3, "map50": 0.4}}}},
            "9-17.*the bands of heights are <16",
        ),
    ],
)
def test_an_accuracy_that_is_not_whole_is_named(accuracy, text):
    with pytest.raises(ModelError, match=f"{text}.*correct it, or measure with --data"):
        stated_accuracy(MODEL.model_copy(update={"accuracy": accuracy}))


def test_the_command_writes_the_page(tmp_path):
    page = tmp_path / "card.html"
    words = ["model", "card", "open-s", "--out", str(page), "--frames", "0"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert MODEL.sha256 not in text and load_model("open-s").sha256 in text
    assert "COCO 2017" in text and "Not measured here" in text

"""Parameters: complete in themselves, and one clear line for a value that is not allowed."""

import pytest
from refused import refused

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.graph.config import DetectorSettings, PreprocessSettings, WatchdogSettings
from perception_nodes.graph.graph import RECORDED
from perception_nodes.graph.settings import SettingsError, allowed_range, check, numeric_range

NODES = {kind.executable: kind.settings for kind in RECORDED.kinds}

EVERY = [
    pytest.param(settings, name, id=f"{executable}.{name}")
    for executable, settings in NODES.items()
    for name in settings.model_fields
]


def refusal(settings, **values):
    return refused(SettingsError, check, settings, values)


@pytest.mark.parametrize(("settings", "name"), EVERY)
def test_every_parameter_has_an_allowed_default_a_range_and_a_description(settings, name):
    field = settings.model_fields[name]
    assert not field.is_required()
    assert type(field.default) in (str, int, float, bool)
    assert field.description
    assert allowed_range(field)
    if type(field.default) in (int, float):
        low, _ = numeric_range(field)
        assert low is not None
    value = getattr(check(settings, {name: field.default}), name)
    assert value == field.default
    assert type(value) is type(field.default)


@pytest.mark.parametrize(("settings", "name"), EVERY)
def test_a_number_outside_its_range_is_named_with_value_and_range(settings, name):
    field = settings.model_fields[name]
    low, high = numeric_range(field)
    beyond = [low - 1] if low is not None else []
    beyond += [high + 1] if high is not None else []
    for value in beyond:
        text = refusal(settings, **{name: value})
        assert text.startswith(f"parameter {name}: {value!r} is not allowed")
        assert text.endswith(allowed_range(field))


@pytest.mark.parametrize(("settings", "name"), EVERY)
@pytest.mark.parametrize("value", ["nan", "inf", "many", "", None, [1], "1e999"])
def test_a_number_is_a_finite_one(settings, name, value):
    if type(settings.model_fields[name].default) in (int, float):
        # Without an upper bound a list of frames may be as long as it likes, but not infinite.
        assert f"parameter {name}: {value!r} is not" in refusal(settings, **{name: value})


@pytest.mark.parametrize(
    ("settings", "name", "value", "allowed"),
    [
        (DetectorSettings, "backend", "magic", "one of auto, openvino, onnxruntime"),
        (DetectorSettings, "threads", "2.5", "a whole number from -1 to 256"),
        (DetectorSettings, "skip_late", "maybe", "true or false"),
        (DetectorSettings, "classes", "car," * 300, "a text such as car,person"),
        (DetectorSettings, "class_thresholds", "car:2", "a text such as person:0.6,car:0.4"),
        (DetectorSettings, "score_threshold", 1.5, "a number from 0.01 to 0.99"),
        (DetectorSettings, "detections_topic", "two words", "a text such as /camera/image_raw"),
        (PreprocessSettings, "camera", "Front Left", "a text that matches"),
        (PreprocessSettings, "image_topic", "/camera/\nimage", "a text such as /camera/image_raw"),
        (PreprocessSettings, "source", "usb", "a text such as dds, shm, v4l2:/dev/video0"),
        *(
            (PreprocessSettings, "image_topic", topic, "a text such as /camera/image_raw")
            for topic in ("/cam//x", "/cam/1x", "/cam/", "//x", "/", "~", "~x", "a/~/b", "/{name}")
        ),
    ],
)
def test_the_line_tells_what_is_allowed(settings, name, value, allowed):
    text = refusal(settings, **{name: value})
    assert text.startswith(f"parameter {name}: {value!r} is not allowed, it must be {allowed}")


@pytest.mark.parametrize("topic", ["a", "/a/b_1", "~/a", "/{camera}", "cam_{camera}1/x", "/a__b/_"])
def test_a_topic_that_ros_takes_is_taken(topic):
    assert check(PreprocessSettings, {"image_topic": topic}).image_topic


def test_a_node_by_itself_knows_its_cameras_topic_and_file():
    values = {"image_topic": "/{camera}/image", "calibration_file": "{camera}.yaml"}
    settings = check(PreprocessSettings, {"camera": "rear", **values})
    assert (settings.image_topic, settings.calibration_file) == ("/rear/image", "rear.yaml")
    assert check(PreprocessSettings, values).image_topic == "/front/image"


def test_a_long_deadline_works_alone():
    assert check(WatchdogSettings, {"deadline_ms": 2000.0}).deadline_ms == 2000


@pytest.mark.parametrize(
    ("settings", "values", "needed"),
    [
        (PreprocessSettings, {"source": "dds"}, "with source:=dds, it needs source:=shm"),
        (
            PreprocessSettings,
            {"source": "shm", "image_transport": "compressed"},
            "with image_transport:=compressed, it needs image_transport:=raw",
        ),
        (
            DetectorSettings,
            {"backend": "openvino"},
            "with backend:=openvino, it needs backend:=tensorrt or backend:=cuda",
        ),
    ],
)
def test_a_gpu_preprocesses_only_what_it_can(settings, values, needed):
    text = refusal(settings, preprocess_on="gpu", **values)
    assert text == f"parameter preprocess_on: 'gpu' is not allowed {needed}"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False), ("1", True), ("off", False)]
)
def test_texts_of_a_command_line_are_converted(text, value):
    assert check(PreprocessSettings, {"undistort": text}).undistort is value
    assert check(PreprocessSettings, {"deadline_ms": "20"}).deadline_ms == 20.0


@pytest.mark.parametrize(
    ("given", "backend", "found"),
    [
        ("auto", "auto", "small"),
        ("auto", "tensorrt", ""),
        ("none", "auto", ""),
        ("mine", "golden", "mine"),
    ],
)
def test_the_faster_model(given: str, backend: str, found: str) -> None:
    settings = DetectorSettings(fallback_model=given, backend=backend)
    assert settings.faster_model("small") == found
    assert settings.faster_model(None) == (found if given == "mine" else "")


def test_the_deadline_of_every_node_is_the_budgets() -> None:
    for settings in NODES.values():
        if "deadline_ms" in settings.model_fields:
            assert settings().deadline_ms == DEADLINE_MS  # type: ignore[attr-defined]

"""Labelled sets on disk, sound and broken."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception_nodes.evaluation.datasets import (
    check_images,
    parse_classes_map,
    read_set,
    read_sets,
)
from perception_nodes.evaluation.labels import DataError
from perception_nodes.evaluation.yolo import label_file
from perception_nodes.networks.class_names import indices_of


@pytest.fixture
def yolo(tmp_path):
    """A folder of two images, one of them with two labels."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for name in ("a.jpg", "b.png"):
        picture = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / name), picture)
    (tmp_path / "classes.txt").write_text("motorbike\nvehicle\n")
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.5 0.5 1\n")
    (tmp_path / "labels/b.txt").write_text("")
    return tmp_path


def test_yolo_labels(yolo):
    found = read_set(yolo, classes_map={"vehicle": ("car", "bus")})
    assert found.classes == ("motorbike", "vehicle")
    assert found.counts_as == {"vehicle": ("car", "bus")}
    np.testing.assert_allclose(found.images[0].boxes, [[0.25, 0.25, 0.75, 0.75], [0, 0, 0.5, 1]])
    assert found.images[0].classes.tolist() == [0, 1]
    assert len(found.images[1].classes) == 0
    assert found.notes == ()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2 0.5 0.5 0.5 0.5", "class '2' is not one of 0 to 1"),
        ("0 1.5 0.5 0.5 0.5", "centre_x 1.5 is not within 0 and 1"),
        ("0 0.5 0.5 nan 0.5", "width nan is not within 0 and 1"),
        ("0 0.5 0.5 0.5 0", "has no area"),
        ("0 0.5 0.5 0.5", "4 values are no box"),
        ("0 0 0 1 0 1 1 0 1", "9 values are a polygon"),
        ("0 0.5 0.5 wide 0.5", "is not five numbers"),
    ],
)
def test_a_wrong_label_names_file_line_and_value(yolo, line, text):
    (yolo / "labels/b.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    with pytest.raises(DataError, match="correct or remove") as error:
        read_set(yolo)
    assert "b.txt:2: " in str(error.value)
    assert text in str(error.value)


def test_what_is_odd_is_counted(yolo):
    (yolo / "labels/b.txt").unlink()
    (yolo / "labels/c.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    notes = " ".join(read_set(yolo).notes)
    assert "1 images have no label file" in notes and "b.png" in notes
    assert "1 label files have no image" in notes and "c.txt" in notes


def test_an_object_that_is_labelled_twice_is_one(yolo):
    two = "1 0.25 0.5 0.5 1\n0 0.5 0.5 0.5 0.5\n"
    (yolo / "labels/a.txt").write_text(two + "1 .25 .5 .5 1.0\n" + two)
    found = read_set(yolo)
    assert found.images[0].classes.tolist() == [1, 0]
    assert found.notes == (f"3 label lines repeat another one and count once: {yolo}/labels/a.txt",)


def test_a_box_ends_at_the_border_of_its_image(yolo):
    # The line of zeros is an object without a box.
    (yolo / "labels/a.txt").write_text("0 0.05 0.5 0.3 0.4\n1 0 0 0 0\n0 0.50001 0.5 1 0.4\n")
    found = read_set(yolo)
    np.testing.assert_allclose(found.images[0].boxes[0], [0, 0.3, 0.2, 0.7])
    assert len(found.images[0].boxes) == 2 and found.images[0].boxes.max() <= 1
    (note,) = found.notes
    assert note == f"1 boxes leave their image and are cut at its border: {yolo}/labels/a.txt"


def test_a_name_of_another_kind_and_what_follows_a_picture_are_no_damage(yolo):
    jpeg, png = yolo / "images/a.jpg", yolo / "images/b.png"
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    whole = jpeg.read_bytes()
    noted = whole[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + whole[2:]
    filled = whole[:2] + b"\xff" + whole[2:]
    for data in (png.read_bytes(), whole + bytes(9000), noted, filled):
        jpeg.write_bytes(data)
        assert len(read_set(yolo).images) == 2
    jpeg.write_bytes(noted[: 3 * len(noted) // 4])  # the small picture in it is whole
    with pytest.raises(DataError, match="1 of 2 images are cut off"):
        read_set(yolo)


def test_class_names_of_another_editor_are_read_and_gaps_refused(yolo):
    names = (yolo / "classes.txt").read_text()
    (yolo / "classes.txt").write_bytes(b"\xef\xbb\xbf" + names.replace("\n", "\r\n").encode())
    assert read_set(yolo).classes == tuple(names.split())
    (yolo / "classes.txt").write_text("\n" + names)
    with pytest.raises(DataError, match="line 1 is empty"):
        read_set(yolo)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_an_image_that_is_cut_off_is_named(tmp_path, ending):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    cv2.imwrite(str(whole), np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    check_images([whole])
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=f"1 of 2 images are cut off, .*cut.{ending}"):
        check_images([whole, cut])


def test_two_images_of_one_label_file_are_named(yolo):
    (yolo / "images/a.png").write_bytes((yolo / "images/b.png").read_bytes())
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png have one label file, a\.txt"):
        read_set(yolo)


def test_labels_are_beside_the_last_folder_named_images(yolo):
    for place in ("images/cam1/images", "images/cam1/labels", "labels/cam1/images"):
        (yolo / place).mkdir(parents=True)
    (yolo / "images/a.jpg").rename(yolo / "images/cam1/images/a.jpg")
    (yolo / "labels/a.txt").rename(yolo / "images/cam1/labels/a.txt")
    found = read_set(yolo)
    assert [len(image.classes) for image in found.images] == [0, 2] and not found.notes
    assert label_file(Path("images/cam1/images/a.jpg")) == Path("images/cam1/labels/a.txt")
    assert label_file(Path("pictures/a.b.jpg")) == Path("pictures/a.b.txt")
    (yolo / "images/cam1/labels/a.txt").rename(yolo / "labels/cam1/images/a.txt")
    notes = " ".join(read_set(yolo).notes)
    assert "1 images have no label file" in notes and "1 label files have no image" in notes


def test_folders_that_are_linked_belong_to_a_set(yolo, tmp_path):
    for file in (yolo / "images/a.jpg", yolo / "labels/a.txt"):
        elsewhere = tmp_path / "elsewhere" / file.parent.name
        elsewhere.mkdir(parents=True)
        shutil.copy(file, elsewhere / f"c{file.suffix}")
        (file.parent / "night").symlink_to(elsewhere)
    (yolo / "images/round").symlink_to(yolo / "images")
    found = read_set(yolo)
    assert [image.path.name for image in found.images] == ["a.jpg", "b.png", "c.jpg"]
    assert found.images[2].classes.tolist() == [0, 1]
    assert found.notes == ()
    (tmp_path / "elsewhere/labels/d.txt").write_text("")
    orphan = yolo / "labels/night/d.txt"
    assert read_set(yolo).notes == (f"1 label files have no image and are left out: {orphan}",)


def test_a_link_that_cannot_be_followed_is_told(yolo):
    link = yolo / "images/night"
    link.symlink_to("n" * 300)  # as one into a folder of somebody else, which root may read
    with pytest.raises(DataError, match=f"{link} cannot be read: File name too long"):
        read_set(yolo)


def test_sets_of_one_name_are_told_apart(yolo, tmp_path, monkeypatch):
    copies = [tmp_path / city / "val" for city in ("ulm", "bonn")]
    for copy in copies:
        shutil.copytree(yolo, copy, ignore=lambda *_: {"ulm", "bonn"})
    assert [one.name for one in read_sets([yolo, *copies])] == [yolo.name, *map(str, copies)]
    monkeypatch.chdir(copies[0])
    assert read_set(".").name == "val"


def test_no_labels_or_images_at_all(yolo):
    for name, reason in (("labels", "none of the 2 images .*--teacher"), ("images", "no image")):
        for path in (yolo / name).iterdir():
            path.unlink()
        with pytest.raises(DataError, match=reason):
            read_set(yolo)


@pytest.mark.parametrize(
    ("images", "lines"),
    [
        ("images", "val: images"),
        ("images", "path: ..\nval: {folder}/images"),
        ("images", "path: datasets/of/the/tool\nval: images"),  # its own folder of all sets
        ("valid/images", "train: ../train/images\nval: ../valid/images"),  # Roboflow's
    ],
)
def test_the_data_yaml_of_ultralytics(yolo, images, lines):
    folder = yolo / Path(images).parent
    if folder != yolo:
        folder.mkdir()
        for kind in ("images", "labels"):
            (yolo / kind).rename(folder / kind)
    path = yolo / "data.yaml"
    path.write_text(f"names: {{0: vehicle, 1: walker}}\n{lines.format(folder=yolo.name)}\n")
    found = read_set(path)
    assert (found.name, found.classes) == (f"{yolo.name}/val", ("vehicle", "walker"))
    assert len(found.images) == 2


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("names: [car, person]", "val is None; write class names, and a folder of images"),
        ("names: [car, person]\nval: val.txt", "val is 'val.txt'; write"),
        ("names: []\nval: images", r"names is \[\]; write class names"),
        ("names: [car, person]\nval: elsewhere", "elsewhere is not a folder"),
    ],
)
def test_an_unusable_data_yaml(yolo, lines, text):
    (yolo / "data.yaml").write_text(lines)
    with pytest.raises(DataError, match=text):
        read_set(yolo / "data.yaml")


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("classes.txt", b"\xff\xfe", "classes.txt cannot be read"),
        ("data.yaml", b"names: 5", "names is 5; write a list"),
        ("data.yaml", b"names: {0: car, a: bus}", r"they are \[0, 'a'\]"),
    ],
)
def test_unusable_class_names(yolo, file, content, text):
    (yolo / "classes.txt").unlink(missing_ok=True)
    (yolo / file).write_bytes(content)
    with pytest.raises(DataError, match=text):
        read_set(yolo)


def coco(width, height):
    image = {"id": 7, "file_name": "a.jpg", "width": width, "height": height}
    box = {"image_id": 7, "category_id": 7, "bbox": [2, 2, 20, 20]}
    return {"images": [image], "categories": [{"id": 7, "name": "car"}], "annotations": [box]}


def test_coco_labels(yolo):
    path, content = yolo / "instances.json", coco(80, 40)
    box = content["annotations"][0]
    box.update(id=1, bbox=[8, 4, 40, 20], iscrowd=1)
    path.write_text(json.dumps(content))
    found = read_set(path)
    assert found.classes == ("car",)
    np.testing.assert_allclose(found.images[0].boxes, [[0.1, 0.1, 0.6, 0.6]])
    assert found.images[0].crowd.tolist() == [True]

    box["bbox"] = [-0.5, 4, 40, 20]
    content["annotations"].append({**box, "id": 2})
    path.write_text(json.dumps(content))
    found = read_set(path)
    np.testing.assert_allclose(found.images[0].boxes, [[0, 0.1, 39.5 / 80, 0.6]])
    assert found.notes == (f"1 annotations repeat another one and count once: {path}",)

    box["bbox"] = [8, 4, 400, 20]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotations\[0\] \(id 1\): bbox .* leaves its 80 x 40"):
        read_set(path)


@pytest.mark.parametrize(
    ("part", "changes", "text"),
    [
        ("images", {"file_name": "b.png"}, "two of its images have the id 7; renumber"),
        ("images", {"id": 8, "file_name": "./a.jpg"}, "1 files have two of its images, .*a.jpg"),
        ("categories", {"id": float("inf")}, "is not a COCO file of boxes: OverflowError"),
    ],
)
def test_entries_of_coco_that_cannot_be_are_named(yolo, part, changes, text):
    content = coco(80, 40)
    content[part].append({**content[part][0], **changes})
    (yolo / "labels.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=text):
        read_set(yolo / "labels.json")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((800, 400), ""),  # of the picture before it was made smaller
        ((40, 80), "labels are for 40 x 80: it is turned, as by an EXIF orientation;"),
        ((80, 60), "a.jpg is 80 x 40, and its labels are for 80 x 60"),
    ],
)
def test_coco_labels_of_another_shape_are_no_labels_of_a_picture(yolo, size, text):
    (yolo / "labels.json").write_text(json.dumps(coco(*size)))
    (image,) = read_set(yolo / "labels.json").images
    if not text:
        assert image.pixels().shape == (40, 80, 3)
        return
    with pytest.raises(DataError, match=re.escape(text)):
        image.pixels()


def test_a_description(yolo, monkeypatch):
    monkeypatch.delenv("PERCEPTION_DATA", raising=False)
    path = yolo / "set.yaml"
    path.write_text("name: x\nimages: images\ncounts_as: {vehicle: [car]}\nmin_height_px: 25\n")
    found = read_set(path)
    assert (found.name, found.min_height_px) == ("x", 25)
    path.write_text("name: x\nimages: images\nnose: 1\n")
    with pytest.raises(DataError, match="nose"):
        read_set(path)
    path.write_text("name: x\nimages: elsewhere\n")
    with pytest.raises(DataError, match="--root or"):
        read_set(path)


def test_a_class_map_takes_precedence_over_a_description(yolo, monkeypatch):
    monkeypatch.delenv("PERCEPTION_DATA", raising=False)
    text = "name: two\nimages: images\nignored: [motorbike]\ncounts_as: {vehicle: [car]}\n"
    (yolo / "two.yaml").write_text(text)
    found = read_set(yolo / "two.yaml", classes_map={"motorbike": ("motorcycle",), "vehicle": ()})
    assert (found.ignored, found.counts_as["motorbike"]) == ({"vehicle"}, ("motorcycle",))


def test_the_shipped_descriptions_can_be_read(root):
    for path in sorted((root / "model_compression/datasets").glob("*.yaml")):
        with pytest.raises(DataError, match="name the folder of the sets"):
            read_set(path, root / "nowhere")


def test_class_names():
    ours = ("person", "car", "motorcycle", "traffic light")
    assert indices_of(["Pedestrian"], ours) == (0,)
    assert indices_of(["motorbike", "car"], ours) == (1, 2)
    assert indices_of(["Traffic_Light"], ours) == (3,)
    assert indices_of(["vehicle"], ours) == ()
    both = ("pedestrian", "people")
    assert indices_of(["pedestrian"], both) == (0,)
    assert indices_of(["People"], both) == (1,)
    assert indices_of(["person"], both) == (0, 1)
    assert parse_classes_map("car=car|bus, rider=ignore") == {"car": ("car", "bus"), "rider": ()}
    with pytest.raises(DataError, match="neither a file nor of the form"):
        parse_classes_map("car")
    assert len(parse_classes_map(",".join(f"class{i}=ignore" for i in range(99)))) == 99
    with pytest.raises(DataError, match="maps to nothing"):
        parse_classes_map("car=")

"""Frames that differ are chosen, and a set without them is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_compression.calibration import contact_sheet
from perception_nodes.evaluation import diversity
from perception_nodes.evaluation.labels import DataError
from perception_nodes.networks.model import InputSpec

SIZE = (64, 48)
INPUT = InputSpec(name="image", width=64, height=48, layout="NHWC", color="BGR", dtype="uint8")


def scene(seed: int) -> np.ndarray:
    """A picture of its own, uint8 [48, 64, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)


def noisy(picture: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def write(folder: Path, pictures: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number:03d}.png"), picture)
    return folder


def test_of_near_duplicates_one_is_taken(tmp_path: Path) -> None:
    pictures = [noisy(scene(place), 100 * place + k) for place in range(20) for k in range(4)]
    chosen = diversity.choose_frames([], [write(tmp_path / "drive", pictures)], 60, INPUT)
    places = {int(Path(name).stem) // 4 for name, _ in chosen.frames}
    assert len(chosen.frames) == len(places) == 20
    assert chosen.radius < diversity.NEAR_DUPLICATE <= chosen.spread
    assert any("only 20 differ" in note for note in chosen.notes)
    assert contact_sheet(chosen).startswith(b"\xff\xd8")


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for place in range(2):
        (tmp_path / f"{place}").mkdir()
    folders = [
        write(tmp_path / f"{place}/images", [scene(20 * place + k) for k in range(10)])
        for place in range(2)
    ]
    chosen = diversity.choose_frames([], folders, 20, INPUT)
    assert {name.rpartition("/")[0] for name, _ in chosen.frames} == {"0/images", "1/images"}
    assert len(chosen.frames) == len({frame.tobytes() for _, frame in chosen.frames}) == 20


def test_a_still_or_dark_drive_is_refused_with_counts(tmp_path: Path) -> None:
    still = [noisy(scene(1), k) for k in range(20)]
    dark = [np.full((48, 64, 3), 2, np.uint8)] * 5
    folder = write(tmp_path / "drive", still + dark)
    with pytest.raises(DataError, match="25 frames, 5 of them blank or dark, only 1 that differ"):
        diversity.choose_frames([], [folder], 60, INPUT)
    with pytest.raises(DataError, match="--bag"):
        diversity.choose_frames([], [], 60, INPUT)


@pytest.mark.parametrize("padding", [0, 114])
def test_a_covered_lens_is_blank_beside_any_border(tmp_path: Path, padding: int) -> None:
    image = INPUT.model_copy(update={"width": 2 * INPUT.width, "padding": padding})
    covered = [np.full((48, 64, 3), 20, np.uint8)] * 20
    with pytest.raises(DataError, match="20 frames, 20 of them blank or dark"):
        diversity.choose_frames([], [write(tmp_path / "drive", covered)], 60, image)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30), st.integers(1, 12))
def test_no_two_chosen_are_near(points: list[tuple[float, float]], count: int) -> None:
    rows = np.array(points, np.float32).reshape(-1, 2)
    chosen, radius, spread = diversity.farthest_points(rows, count)
    assert len(chosen) <= count
    between = np.linalg.norm(rows[chosen][:, None] - rows[chosen][None], axis=2)
    apart = between[~np.eye(len(chosen), dtype=bool)]
    assert (apart >= diversity.NEAR_DUPLICATE - 1e-6).all()
    assert spread == pytest.approx(apart.min() if apart.size else 0, abs=1e-4)
    if points:
        nearest = np.linalg.norm(rows[:, None] - rows[chosen][None], axis=2).min(axis=1)
        assert radius == pytest.approx(nearest.max(), abs=1e-4)
        assert len(chosen) == count or radius < diversity.NEAR_DUPLICATE


def test_black_and_white_are_one_apart() -> None:
    black, white = (np.full((48, 64, 3), value, np.uint8) for value in (0, 255))
    assert np.linalg.norm(diversity.describe(black) - diversity.describe(white)) == pytest.approx(1)

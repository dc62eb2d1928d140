"""The filters against a plain Kalman filter with matrices, and what must hold of any prediction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.tracking import motion

BOX = np.array([[100.0, 50.0, 40.0, 90.0]])
times_s = st.floats(0.0, 2.0)
sides = st.floats(2.0, 1000.0)
corner = st.floats(-500, 2000)
boxes = st.tuples(corner, corner, sides, sides).map(lambda box: np.array([box]))


class Oracle:
    """Eight states, full matrices: x, y, w, h and their velocities."""

    def __init__(self, box):
        self.x = np.concatenate([box, np.zeros(4)])
        self.size = np.sqrt(box[2] * box[3])
        deviations = [motion.DETECTION_NOISE] * 4 + [motion.FIRST_VELOCITY] * 4
        self.P = np.diag((np.array(deviations) * self.size) ** 2)

    def predict(self, dt):
        unit = np.eye(4)
        F = np.block([[unit, dt * unit], [0 * unit, unit]])
        q = (motion.ACCELERATION * self.size) ** 2
        Q = q * np.block([[dt**3 / 3 * unit, dt**2 / 2 * unit], [dt**2 / 2 * unit, dt * unit]])
        self.x = F @ self.x
        self.P = F @ self.P @ F.T + Q

    def correct(self, box):
        H = np.hstack([np.eye(4), np.zeros((4, 4))])
        R = np.eye(4) * (motion.DETECTION_NOISE * self.size) ** 2
        K = self.P @ H.T @ np.linalg.inv(H @ self.P @ H.T + R)
        self.x = self.x + K @ (box - H @ self.x)
        self.P = (np.eye(8) - K @ H) @ self.P
        self.size = np.sqrt(box[2] * box[3])


def test_it_is_the_kalman_filter():
    random = np.random.default_rng(1)
    first = np.array([random.uniform([0, 0, 20, 20], [900, 500, 200, 200]) for _ in range(5)])
    filters, oracles = motion.born(first), [Oracle(box) for box in first]
    for _ in range(40):
        dt = random.uniform(0.01, 0.3)
        seen = np.maximum(filters[:, motion.BOX] + random.normal(0, 4, (5, 4)), 10)
        filters = motion.corrected(motion.predicted(filters, dt), seen)
        for oracle, box in zip(oracles, seen, strict=True):
            oracle.predict(dt)
            oracle.correct(box)
        for found, oracle in zip(filters, oracles, strict=True):
            np.testing.assert_allclose(found[motion.BOX], oracle.x[:4], rtol=1e-9)
            np.testing.assert_allclose(found[motion.VELOCITY], oracle.x[4:], rtol=1e-7, atol=1e-7)
            P = oracle.P
            np.testing.assert_allclose(found[motion.BOX_VARIANCE], np.diag(P)[:4], rtol=1e-7)
            np.testing.assert_allclose(found[motion.VELOCITY_VARIANCE], np.diag(P)[4:], rtol=1e-7)
            np.testing.assert_allclose(found[motion.COVARIANCE], np.diag(P[:4, 4:]), rtol=1e-7)


@given(box=boxes, first_s=times_s, second_s=times_s)
def test_two_predictions_are_one(box, first_s, second_s):
    filters = motion.corrected(motion.predicted(motion.born(box), 0.05), box + 1)
    filters[:, motion.VELOCITY, 2:] = 0  # a box that shrinks ends at a pixel, which is not linear
    twice = motion.predicted(motion.predicted(filters, first_s), second_s)
    np.testing.assert_allclose(twice, motion.predicted(filters, first_s + second_s), rtol=1e-6)


def test_a_shrinking_box_keeps_a_side():
    filters = motion.born(BOX)
    filters[:, motion.VELOCITY] = -1000
    assert (motion.predicted(filters, 1.0)[:, motion.BOX, 2:] == motion.MIN_SIDE_PX).all()


@pytest.mark.parametrize("rate_hz", [5, 10, 30, 60])
def test_a_steady_velocity_is_found_at_any_rate(rate_hz):
    filters = motion.born(BOX)
    for step in range(1, 2 * rate_hz + 1):
        moved = BOX + [[150 * step / rate_hz, 0, 0, 0]]
        filters = motion.corrected(motion.predicted(filters, 1 / rate_hz), moved)
    assert filters[0, motion.VELOCITY, 0] == pytest.approx(150, abs=3)

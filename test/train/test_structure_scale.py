"""Metres of a reconstruction, and whether its camera is right, on numbers alone."""

import numpy as np
import pytest

from train.structure.lens_check import judge_focal
from train.structure.scale import _agreed, plane_height


def _scaled(values):
    return _agreed(np.array(values, float))[0]


def test_scale_that_drifts_is_followed():
    drift = np.linspace(1, 1.5, 100)
    noise = 1 + 0.02 * np.sin(np.arange(100) * 7)
    found = _scaled(drift * noise)
    assert np.abs(found / drift - 1).max() < 0.05


def test_spread_is_of_the_frames_around():
    random = np.random.default_rng(0)
    _, spreads = _agreed(random.normal(1, 0.05, 200))
    assert np.median(spreads) == pytest.approx(0.05, rel=0.3)
    _, spreads = _agreed(np.linspace(1, 1.5, 100))
    assert 0 < np.median(spreads) < 0.05, 'drift is no certainty'


def test_scale_that_jumps_is_not_known_there():
    found = _scaled([1.0] * 40 + [2.0] * 40)
    assert np.isnan(found[38:42]).any()
    assert found[20] == 1 and found[60] == 2


def test_scale_is_filled_where_both_sides_agree():
    found = _scaled([1.0] * 20 + [np.nan] * 40 + [1.05] * 20)
    assert np.isfinite(found).all()
    found = _scaled([1.0] * 20 + [np.nan] * 40 + [1.5] * 20)
    assert np.isnan(found[30:50]).all()


def test_no_scale_from_noise():
    random = np.random.default_rng(0)
    assert np.isfinite(_scaled(np.exp(random.normal(0, 1, 100)))).mean() < 0.1


def test_plane_is_found_among_others():
    random = np.random.default_rng(0)
    points = np.stack(
        [random.uniform(-3, 3, 200), np.full(200, 1.5), random.uniform(3, 20, 200)], 1
    )
    points[:, 1] += 0.05 * points[:, 2]
    points[:60, 1] -= random.uniform(0.2, 1, 60)
    height = plane_height(points, sure=True)
    assert height == pytest.approx(1.5 / np.sqrt(1 + 0.05**2), rel=0.01)
    assert np.isnan(plane_height(random.normal(0, 2, (50, 3)), sure=False))


@pytest.mark.parametrize(
    ('fitted', 'doubtful', 'sure'),
    [
        ([200], False, False),
        ([190, 205, 207], False, False),
        ([170, 172, 174], True, False),
        ([140, 142, 144], True, True),
        ([90, 142, 240], False, False),
        ([], False, False),
    ],
)
def test_focal_length_is_judged(fitted, doubtful, sure):
    doubt, certain = judge_focal(200, fitted)
    assert bool(doubt) == doubtful and certain == sure

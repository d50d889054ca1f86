"""The filter of scales, distances compared, and the scale by each source."""

import math

import numpy as np
import pytest

from depth_ros.core.camera import Intrinsics
from depth_ros.core.ground import Ground, NoGround
from depth_ros.core.scale import (
    JUMP,
    SOURCES,
    START,
    SYSTEMATIC,
    MetricScale,
    Scale,
    ScaleFilter,
    fused,
)
from depth_ros.core.travel import Travel

PERIOD = 0.1
CAMERA = Intrinsics(180.0, 180.0, 159.5, 30.0, 320, 96)
GREY = np.full((96, 320, 3), 128, np.uint8)


def make_filter(noise=0.1, systematic=0.03):
    return ScaleFilter(noise, systematic)


def feed(scale_filter, values, start=0.0, period=PERIOD):
    """Measure one value after another; returns the time of the last."""
    for i, value in enumerate(values):
        scale_filter.measure(start + i * period, value, 0.02)
    return start + (len(values) - 1) * period


def noisy(value, count, sigma=0.08, seed=0):
    return value * np.exp(sigma * np.random.default_rng(seed).standard_normal(count))


# The filter


def test_nothing_is_said_before_enough_measurements_agree():
    scale_filter = make_filter()
    assert scale_filter.at(0.0) is None and not scale_filter.known
    feed(scale_filter, [2.0] * (START - 1))
    assert scale_filter.at(1.0) is None
    feed(scale_filter, [2.0], start=0.4)
    assert scale_filter.at(0.4).value == pytest.approx(2.0)


def test_measurements_that_do_not_agree_say_nothing():
    scale_filter = make_filter()
    feed(scale_filter, [1.0, 3.0, 0.3, 9.0, 0.1, 1.8, 0.6, 5.0, 0.2, 2.9])
    assert scale_filter.at(1.0) is None
    assert scale_filter.refused == 10


def test_noise_is_averaged():
    scale_filter = make_filter()
    end = feed(scale_filter, noisy(1.3, 300))
    found = scale_filter.at(end)
    assert found.value == pytest.approx(1.3, rel=0.03)
    assert found.age == 0
    assert found.value * 0.03 < found.sigma < 0.1 * found.value


def test_the_standard_deviation_is_about_right():
    errors, sigmas = [], []
    for seed in range(80):
        scale_filter = make_filter(noise=0.08, systematic=0.0)
        end = feed(scale_filter, noisy(1.0, 60, seed=seed), period=1.0)  # errors of their own
        found = scale_filter.at(end)
        errors.append(math.log(found.value))
        sigmas.append(found.sigma)
    assert np.std(errors) < np.mean(sigmas) < 4 * np.std(errors)  # never too sure of itself


def test_outliers_are_refused():
    scale_filter = make_filter()
    values = noisy(1.3, 200, sigma=0.03)
    values[50::10] = 4.0
    end = feed(scale_filter, values)
    assert scale_filter.at(end).value == pytest.approx(1.3, rel=0.02)
    assert scale_filter.refused == 15 + START - 1 and scale_filter.jumps == 0


def test_no_measurement_at_all_is_no_outlier_either():
    scale_filter = make_filter()
    for value in (math.nan, math.inf, 0.0, -1.0):
        assert not scale_filter.measure(0.0, value, 0.02)
    assert not scale_filter.measure(0.0, 1.0, math.nan)
    feed(scale_filter, [1.0] * START)
    assert scale_filter.at(1.0).value == pytest.approx(1.0)


def test_it_follows_a_slow_drift():
    scale_filter = make_filter(noise=0.05)
    values = np.exp(np.linspace(0, math.log(1.2), 1200)) * noisy(1.0, 1200, 0.03)
    end = feed(scale_filter, values)  # 20 % in two minutes
    assert scale_filter.at(end).value == pytest.approx(1.2, rel=0.05)
    assert scale_filter.jumps == 0


def test_it_holds_and_grows_unsure():
    scale_filter = make_filter()
    end = feed(scale_filter, [2.0] * 50)
    sigmas = [scale_filter.at(end + t).sigma for t in (0, 10, 60, 600)]
    assert sigmas == sorted(sigmas) and sigmas[-1] > 1.5 * sigmas[0]
    held = scale_filter.at(end + 600)
    assert held.value == pytest.approx(2.0) and held.age == pytest.approx(600)


def test_a_jump_is_believed_once_enough_agree():
    scale_filter = make_filter()
    end = feed(scale_filter, [1.0] * 50)
    end = feed(scale_filter, [2.0] * (JUMP - 1), end + PERIOD)
    assert scale_filter.at(end).value == pytest.approx(1.0)
    end = feed(scale_filter, [2.0], end + PERIOD)
    assert scale_filter.at(end).value == pytest.approx(2.0)
    assert scale_filter.jumps == 1


def test_a_clock_that_stands_still_or_goes_back_is_no_harm():
    scale_filter = make_filter()
    for value in noisy(1.5, 30, 0.02):
        scale_filter.measure(5.0, value, 0.0)
    feed(scale_filter, noisy(1.5, 30, 0.02), start=0.0)
    found = scale_filter.at(3.0)
    assert found.value == pytest.approx(1.5, rel=0.05) and math.isfinite(found.sigma)
    assert found.age >= 0


def test_a_source_that_disagrees_with_itself_is_less_sure():
    calm, wild = make_filter(), make_filter()
    end = feed(calm, noisy(1.0, 100, 0.03))
    feed(wild, noisy(1.0, 100, 0.25))
    assert wild.at(end).sigma > 2 * calm.at(end).sigma


# Fusing


def test_fused_by_inverse_variance():
    a, b = Scale(1.0, 0.1, 3.0), Scale(1.1, 0.055, 1.0)  # 10 % and 5 %
    found = fused([a, b])
    assert math.log(found.value) == pytest.approx(0.8 * math.log(1.1))
    assert found.sigma / found.value == pytest.approx(0.05)  # no surer than the surest
    assert found.age == 1.0
    assert fused([a]) == pytest.approx(a)


def test_sources_that_contradict_each_other_are_less_sure():
    found = fused([Scale(1.0, 0.02, 0.0), Scale(2.0, 0.04, 0.0)])
    assert 1.0 < found.value < 2.0
    assert found.sigma / found.value > 0.2


# Distances


def drive(travel, speed=1.0, unit=0.5, seconds=5.0, wheel_period=0.02, turn=0.0):
    """Move straight on at ``speed``, where a unit of depth is ``unit`` metres."""
    ratios = []
    for i in range(round(seconds / PERIOD)):
        travel.move(i * PERIOD, (i + 1) * PERIOD, speed * PERIOD / unit, turn)
    for t in np.arange(0, seconds + wheel_period, wheel_period).tolist():
        travel.place(t, np.array([speed * t, 0, 0]))
        ratios += travel.ratios()
    return ratios


def test_the_ratio_of_distances():
    ratios = drive(Travel())
    assert len(ratios) >= 10
    np.testing.assert_allclose([r for _, r in ratios], 0.5, rtol=1e-6)
    assert [t for t, _ in ratios] == sorted(t for t, _ in ratios)


def test_a_speed_serves_as_well():
    travel, ratios = Travel(), []
    for i in range(50):
        travel.move(i * PERIOD, (i + 1) * PERIOD, 0.4, 0.0)
    for t in np.arange(0, 6, 0.25):
        travel.speed(float(t), 2.0)
        ratios += travel.ratios()
    np.testing.assert_allclose([r for _, r in ratios], 0.5, rtol=1e-6)


def test_standing_turning_and_gaps_say_nothing():
    assert drive(Travel(), speed=0.0) == []
    assert drive(Travel(), speed=0.01) == []
    assert drive(Travel(), turn=0.1) == []  # a radian a metre
    assert drive(Travel(), wheel_period=2.0) == []


def test_broken_positions_and_clocks_that_go_back_are_left_out():
    travel = Travel()
    travel.place(0.0, np.array([0, 0, 0]))
    travel.place(0.05, np.array([np.nan, 0, 0]))
    travel.speed(0.07, math.nan)
    travel.move(1.0, 0.5, 1.0, 0.0)
    travel.move(0.0, 0.1, math.nan, 0.0)
    assert travel.ratios() == []
    travel.place(1000.0, np.zeros(3))
    ratios = drive(travel)  # from zero again
    np.testing.assert_allclose([r for _, r in ratios], 0.5, rtol=1e-6)


# The scale by its source


def flat_depth(unit, height=1.65, tilt=0.0):
    """Depth of flat ground in units of ``unit`` metres under a camera at ``height`` metres."""
    _, y = CAMERA.rays()
    steep = y * math.cos(tilt) + math.sin(tilt)
    rows = np.where(steep > 0.02, height / unit / np.maximum(steep, 1e-6), np.nan)
    return np.repeat(rows[:, None], CAMERA.width, 1).astype(np.float32)


def see(scale, depth, count=20, start=0.0):
    for i in range(count):
        scale.see(GREY, depth, CAMERA, None, None, start + i * PERIOD)
    return start + (count - 1) * PERIOD


@pytest.mark.parametrize('unit', [0.05, 1.0, 30.0])
@pytest.mark.parametrize('tilt', [0.0, 0.1])
def test_metres_from_the_height_of_the_camera(unit, tilt):
    scale = MetricScale('height', metric=False, camera_height=1.65)
    assert scale.at(0.0) is None and 'height of the camera' in scale.problem
    end = see(scale, flat_depth(unit, tilt=tilt))
    found = scale.at(end)
    assert found.value == pytest.approx(unit, rel=1e-3)
    assert SYSTEMATIC['height'] * unit < found.sigma < 0.1 * unit
    assert isinstance(scale.ground, Ground)
    assert scale.ground.pitch == pytest.approx(tilt, abs=1e-3)


def test_without_ground_the_scale_is_held():
    scale = MetricScale('height', metric=False, camera_height=1.65)
    end = see(scale, flat_depth(2.0))
    before = scale.at(end)
    wall = np.full((CAMERA.height, CAMERA.width), 3.0, np.float32)
    end = see(scale, wall, 100, end + PERIOD)
    after = scale.at(end)
    assert isinstance(scale.ground, NoGround)
    assert after.value == before.value and after.sigma > before.sigma and after.age > 9


def test_a_plane_at_an_absurd_height_changes_nothing():
    scale = MetricScale('height', metric=False, camera_height=1.65)
    end = see(scale, flat_depth(2.0))
    end = see(scale, flat_depth(2.0, height=9.0), 100, end + PERIOD)  # a bridge over the valley
    assert isinstance(scale.ground, NoGround) and 'absurd' in scale.ground.reason
    assert scale.at(end).value == pytest.approx(2.0, rel=1e-3)


def test_metres_from_travelled_distances():
    scale = MetricScale('odometry', metric=False)
    assert scale.at(0.0) is None and 'distances' in scale.problem
    for i in range(100):
        scale.travel.place(i * PERIOD, np.array([0.2 * i, 0, 0]))
        if i:
            scale.travel.move((i - 1) * PERIOD, i * PERIOD, 0.1, 0.0)
    assert scale.at(10.0).value == pytest.approx(2.0, rel=1e-3)
    see(scale, flat_depth(7.0))  # its ground does not count
    assert scale.at(10.0).value == pytest.approx(2.0, rel=1e-3)


def test_metres_from_the_model():
    assert MetricScale('model', metric=True).at(0.0).value == 1.0
    assert MetricScale('model', metric=False, unit=3.0).at(0.0).value == 3.0
    unknown = MetricScale('model', metric=False)
    assert unknown.at(0.0) is None and unknown.problem == 'the model is not metric'


def test_all_sources_together():
    scale = MetricScale('fused', metric=True, camera_height=1.65)
    first = scale.at(0.0)
    assert first.value == 1.0 and first.sigma == SYSTEMATIC['model']
    end = see(scale, flat_depth(1.1))
    found = scale.at(end)
    assert 1.06 < found.value < 1.1 and found.sigma < first.sigma
    for i in range(100):
        scale.travel.place(end + i * PERIOD, np.array([0.22 * i, 0, 0]))
        if i:
            scale.travel.move(end + (i - 1) * PERIOD, end + i * PERIOD, 0.2, 0.0)
    closer = scale.at(end + 10)
    assert closer.value == pytest.approx(1.1, rel=0.02) and closer.sigma < found.sigma


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="'lidar' is unknown; choose model, height"):
        MetricScale('lidar', metric=True)
    scale = MetricScale('height', metric=True)
    see(scale, flat_depth(1.0))
    assert scale.at(2.0) is None and 'not given' in scale.problem


def test_how_the_camera_is_mounted_may_be_known_better():
    scale = MetricScale('height', metric=False)
    steep = math.radians(30)
    scale.hold_camera(0.5, np.array([0, math.cos(steep), math.sin(steep)]))
    end = see(scale, flat_depth(2.0, height=0.5, tilt=steep))
    assert scale.at(end).value == pytest.approx(2.0, rel=1e-3)
    see(scale, flat_depth(2.0, height=0.5, tilt=0.0))
    assert isinstance(scale.ground, NoGround)


def test_every_source_can_be_chosen():
    for source in SOURCES:
        assert MetricScale(source, metric=False, camera_height=1.0).source == source

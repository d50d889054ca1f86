"""The text of ``python -m train evaluate``."""

from train.evaluation.results import table


def test_scales_of_any_size_and_what_is_aligned():
    """A network's unit may be a kilometre; the third column does not fit the rotation."""
    numbers = {
        'length': 9.0,
        'frames': 10,
        'scale': 0.000123456,
        'ate_se3': 1.0,
        'ate_sim3': 0.5,
        'ate_scale': 0.7,
        'baselines': {},
    }
    lines = table({'trajectories': {'walk': numbers}}).splitlines()
    assert lines[0].endswith('scale 0.0001235') and lines[1].split() == [
        'SE(3)',
        'Sim(3)',
        'scale*',
    ]
    assert any('the first pose is laid on the true one, and only the scale is' in x for x in lines)

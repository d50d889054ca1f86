"""How far a motion may be trusted."""

import pytest

from depth_ros.core.confidence import DOUBTFUL, Confidence, judge, mean_confidence

GOOD = {
    'corners': 300,
    'inliers': 0.95,
    'residual': 0.2,
    'scale_sigma': 0.05,
    'network': 0.1,
    'ready': True,
}


def test_nothing_speaks_against_it():
    assert judge(**GOOD) == Confidence(1.0)
    assert judge(**{**GOOD, 'network': None}) == Confidence(1.0)


@pytest.mark.parametrize(
    'sign, value, reason',
    [
        ('corners', 20, 'few corners'),
        ('inliers', 0.3, 'moves differently'),
        ('residual', 1.4, 'not where the motion puts them'),
        ('scale_sigma', 0.4, 'scale is not known'),
        ('ready', False, 'only turns'),
    ],
)
def test_the_worst_sign_decides(sign, value, reason):
    found = judge(**{**GOOD, sign: value})
    assert found.trust < DOUBTFUL and len(found.reasons) == 1 and reason in found.reasons[0]


def test_a_network_that_disagrees_is_told_but_not_believed():
    found = judge(**{**GOOD, 'network': 10.0})
    assert DOUBTFUL < found.trust < 1
    assert found.reasons == ('the pose network sees another motion',)


def test_the_mean_names_what_is_often_wrong():
    doubts = [Confidence(0.0, ('blind',))] * 3 + [Confidence(0.4, ('rare',))]
    found = mean_confidence([Confidence(1.0)] * 16 + doubts)
    assert found == Confidence(0.82, ('blind',))

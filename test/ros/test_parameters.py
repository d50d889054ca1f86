from depth_ros.ros.parameters import Parameter


def test_descriptors_carry_range_choices_unit_and_moment():
    ranged = Parameter('speed', 1.5, 'Speed.', 'm/s', 0.0, 2.0, when='live').descriptor()
    assert ranged.description == 'Speed. Unit: m/s.' and not ranged.read_only
    assert (ranged.floating_point_range[0].from_value, ranged.floating_point_range[0].to_value) == (
        0,
        2,
    )
    assert not ranged.integer_range and ranged.additional_constraints == ''
    whole = Parameter('count', 1, 'Count.', minimum=1, maximum=3).descriptor()
    assert (whole.integer_range[0].from_value, whole.integer_range[0].to_value) == (1, 3)
    assert 'unconfigured' in whole.additional_constraints
    chosen = Parameter('mode', 'a', 'Mode.', choices=('a', 'b'), when='start').descriptor()
    assert chosen.read_only and 'a, b' in chosen.additional_constraints


def test_problems_name_the_parameter():
    mode = Parameter('mode', 'a', 'Mode.', choices=('a', 'b'))
    assert mode.problem('b') == '' and 'mode' in mode.problem('c') and 'a, b' in mode.problem('c')
    assert 'finite' in Parameter('speed', 1.0, 'Speed.').problem(float('nan'))

import pytest
import yaml

from depth_ros.ros.parameters import COMMON, TABLES, TYPE_NAMES, Parameter, markdown

ALL = [pytest.param(p, id=f'{node}.{p.name}') for node, table in TABLES.items() for p in table]


def test_names_are_unique():
    for table in TABLES.values():
        names = [p.name for p in table]
        assert len(names) == len(set(names))


@pytest.mark.parametrize('parameter', ALL)
def test_each_parameter_is_documented_and_its_default_allowed(parameter):
    assert parameter.description.endswith('.') and parameter.problem(parameter.default) == ''
    if isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
        assert parameter.minimum <= parameter.default <= parameter.maximum


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
    camera_pose = next(p for p in TABLES['odometry_node'] if p.name == 'camera_pose')
    assert camera_pose.problem([0.0] * 7).startswith('camera_pose: ')
    assert 'seven' in camera_pose.problem([0.0, 1.0])


@pytest.mark.parametrize('node', TABLES)
def test_parameter_file_lists_every_parameter_with_its_default(node, repository):
    text = (repository / 'config' / 'depth_ros.yaml').read_text()
    values = yaml.safe_load(text)[f'/**/{node}']['ros__parameters']
    assert values == {p.name: p.default for p in TABLES[node]}
    # ROS tells 1 and 1.0 apart, as Python's equality does not.
    assert all(type(values[p.name]) is type(p.default) for p in TABLES[node])
    # Every value stands below its comment.
    lines = text.splitlines()
    for parameter in TABLES[node]:
        at = [i for i, line in enumerate(lines) if line.startswith(f'    {parameter.name}:')]
        assert at and all(lines[i - 1].startswith('    # ') for i in at)


def test_markdown_has_one_row_for_each_parameter():
    rows = markdown(COMMON).splitlines()[2:]
    assert len(rows) == len(COMMON)
    for row, parameter in zip(rows, COMMON, strict=True):
        assert row.startswith(f'| `{parameter.name}` | {TYPE_NAMES[type(parameter.default)]} |')
        assert row.count(' | ') == 5

import pytest
import yaml

from depth_ros.evaluation.live_run import NODE_OF_PARAMETER
from depth_ros.nodes.parameters import COMMON, TABLES
from depth_ros.ros.parameters import TYPE_NAMES, markdown

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


def test_the_camera_pose_is_a_pose():
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


def test_an_evaluation_gives_each_node_its_own():
    """What is not in the list is a parameter of both nodes."""
    names = {node: {p.name for p in table} for node, table in TABLES.items()}
    for name, node in NODE_OF_PARAMETER.items():
        assert [n for n in names if name in names[n]] == [node]
    for name in ('fit', 'backend', 'threads'):
        assert name not in NODE_OF_PARAMETER and all(name in known for known in names.values())

"""The rooms of the house: which may import which, no cycles, and what a node loads.

docs/architecture.md has the same table in words.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    'depth_ros.core': set(),
    'depth_ros.inference': {'depth_ros.core'},
    'depth_ros.bags': {'depth_ros.core'},
    'depth_ros.ros': {'depth_ros.core'},
    'depth_ros.ros.player': {'depth_ros.bags', 'depth_ros.ros'},
    'depth_ros.ros.recorder': {'depth_ros.bags', 'depth_ros.ros'},
    'depth_ros.deploy': {
        'depth_ros.core',
        'depth_ros.inference',
        'depth_ros.bags',
        'depth_ros.evaluation',
    },
    'depth_ros.nodes': {
        'depth_ros.core',
        'depth_ros.inference',
        'depth_ros.ros',
        'depth_ros.deploy.build',
    },
    'depth_ros.evaluation': {'depth_ros.core', 'depth_ros.inference', 'depth_ros.bags'},
    'depth_ros.evaluation.live': {'depth_ros.evaluation', 'depth_ros.ros'},
    'depth_ros.evaluation.live_run': {'depth_ros.evaluation', 'depth_ros.ros'},
    'depth_ros.evaluation.processes': {'depth_ros.evaluation', 'depth_ros.ros'},
    'depth_ros.commands': {'depth_ros'},
    'train': {
        'depth_ros.bags',
        'depth_ros.core',
        'depth_ros.deploy',
        'depth_ros.evaluation',
        'depth_ros.inference',
    },
}
"""What each room may import besides itself; a file may also have a row of its own, which adds to
its room's."""

EVERYWHERE = {'allocator', 'files', 'packages', 'share'}
"""Small helpers at the top of depth_ros/, for all rooms but core; they import nothing of ours."""


def modules():
    """Path of every module of the two packages, by its dotted name."""
    found = {}
    for package in ('depth_ros', 'train'):
        for path in (ROOT / package).rglob('*.py'):
            parts = path.relative_to(ROOT).with_suffix('').parts
            found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


MODULES = modules()


def imported(name):
    """Modules of ours that a module imports, wherever in its file; types alone do not count."""
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            wanted = [
                longer if (longer := f'{node.module}.{alias.name}') in MODULES else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (module for module in wanted if module in MODULES)


def within(name, rooms):
    return any(name == room or name.startswith(f'{room}.') for room in rooms)


def room_of(name):
    parts = name.split('.')
    return parts[0] if parts[0] == 'train' else '.'.join(parts[:2])


@pytest.mark.parametrize('name', sorted(n for n in MODULES if n != 'depth_ros'))
def test_imports_stay_in_the_rooms_that_may_be_imported(name):
    room = room_of(name)
    helper = room.removeprefix('depth_ros.') in EVERYWHERE
    allowed = set() if helper else {room, *MAY_IMPORT[room], *MAY_IMPORT.get(name, ())}
    if not helper and room != 'depth_ros.core':
        allowed |= {'depth_ros.' + module for module in EVERYWHERE}
    bad = {m for m in imported(name) if m != 'depth_ros' and not within(m, allowed)}
    assert not bad, f'{name} may import {sorted(allowed)} only'


def test_no_two_files_import_each_other_by_any_way():
    graph = {name: set(imported(name)) - {name} for name in MODULES}
    done, cycles = set(), []

    def visit(name, way):
        if name in way:
            cycles.append(' -> '.join([*way[way.index(name) :], name]))
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, [*way, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    assert not cycles


@pytest.mark.slow
@pytest.mark.parametrize('node', ['perception_node', 'odometry_node'])
def test_a_node_loads_what_it_needs_and_no_more(node):
    code = f'import sys, depth_ros.nodes.{node}; print(*sorted(sys.modules))'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    deploy = {'depth_ros.deploy', 'depth_ros.deploy.build', 'depth_ros.deploy.onnx_graph'}
    rooms = {'depth_ros.bags', 'depth_ros.evaluation', 'depth_ros.commands'}
    unneeded = {'matplotlib', 'rosbags', 'torch', 'jinja2', 'scipy', 'tqdm'}
    assert [m for m in loaded if within(m, rooms | unneeded)] == []
    assert [m for m in loaded if within(m, {'depth_ros.deploy'}) and m not in deploy] == []

"""The package builds and installs in both ways that users have: colcon and pip."""

import importlib.metadata
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import depth_ros

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

pytestmark = pytest.mark.slow  # the package is built and installed

EXECUTABLES = (
    'perception_node',
    'odometry_node',
    'evaluate_bag',
    'depth_ros_demo',
    'depth_ros_train',
    'depth_ros_bench',
    'adopt_model',
    'build_engine',
    'compare_engines',
    'bench_engine',
    'quantize',
)
SHARED = (
    'launch/depth_ros.launch.py',
    'config/depth_ros.yaml',
    'config/depth_ros.rviz',
    'config/fastdds.xml',
    'models/perception.onnx',
    'models/pose.onnx',
    'package.xml',
    'models/frames/street_0.jpg',
    'models/frames/street_1.jpg',
)


def run(command, **options):
    """Run a command; its output is the failure's message."""
    result = subprocess.run(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope='module')
def source(repository, tmp_path_factory):
    """A copy of the repository as a clone would have it, so that no build marks the original."""
    if shutil.which('git') is None or not (repository / '.git').exists():
        pytest.skip('a git checkout tells which files belong to the package')
    listed = run(['git', 'ls-files', '--cached', '--others', '--exclude-standard'], cwd=repository)
    target = tmp_path_factory.mktemp('workspace') / 'src' / 'depth_ros'
    for name in listed.splitlines():
        # Tests and recordings take no part in the build.
        if (repository / name).is_file() and name.split('/')[0] not in ('test', 'demo', 'docs'):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, target / name)
    return target


def check_share(prefix):
    share = prefix / 'share' / 'depth_ros'
    assert [name for name in SHARED if not (share / name).is_file()] == []
    assert (prefix / 'share/ament_index/resource_index/packages/depth_ros').is_file()
    report = next(prefix.rglob('depth_ros/evaluation/report/page.py')).parent
    for template in ('page.html.j2', 'style.css', 'report/top.html.j2', 'comparison/top.html.j2'):
        assert (report / 'templates' / template).is_file()


def starts(node, command, folder, environment):
    """An installed node becomes active with the installed model, far from the repository."""
    from support.ros_process import Peer

    process = subprocess.Popen(
        ['bash', '-c', command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        with Peer() as peer:
            peer.wait_state(node, 'active')
    except AssertionError as error:
        process.terminate()
        pytest.fail(f'{error}\n{process.communicate(timeout=30)[0]}')
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_colcon_build(source, clean_environment, tmp_path):
    pytest.importorskip('colcon_ros', reason='colcon is not installed (colcon-common-extensions)')
    install = tmp_path / 'install'
    environment = {
        **clean_environment,
        'COLCON_HOME': str(tmp_path),
        'AMENT_PREFIX_PATH': sys.prefix,
    }
    run(
        [
            sys.executable,
            '-m',
            'colcon',
            '--log-base',
            str(tmp_path / 'log'),
            'build',
            '--base-paths',
            str(source),
            '--build-base',
            str(tmp_path / 'build'),
            '--install-base',
            str(install),
            '--event-handlers',
            'console_direct+',
        ],
        cwd=tmp_path,
        env=environment,
    )
    prefix = install / 'depth_ros'
    check_share(prefix)
    assert {path.name for path in (prefix / 'lib/depth_ros').iterdir()} == set(EXECUTABLES)
    sourced = run(
        [
            'bash',
            '-c',
            f'source {install}/setup.bash && printf "%s\\n" "$AMENT_PREFIX_PATH" && '
            f'{sys.executable} -c "import depth_ros; print(depth_ros.__file__)"',
        ],
        cwd=tmp_path,
        env=environment,
    ).splitlines()
    assert sourced[-2].split(':')[0] == str(prefix)
    assert Path(sourced[-1]).is_relative_to(prefix)
    for node in ('perception_node', 'odometry_node'):
        starts(
            node,
            f'source {install}/setup.bash && exec {prefix}/lib/depth_ros/{node}',
            tmp_path,
            environment,
        )


def test_pip_install(source, clean_environment, tmp_path):
    pytest.importorskip('setuptools')
    run(
        [
            sys.executable,
            '-m',
            'pip',
            'install',
            '--no-deps',
            '--no-build-isolation',
            '--quiet',
            '--ignore-installed',
            '--prefix',
            str(tmp_path),
            str(source),
        ],
        cwd=tmp_path,
        env=clean_environment,
    )
    check_share(tmp_path)
    assert {path.name for path in (tmp_path / 'bin').iterdir()} >= set(EXECUTABLES)
    packages = sysconfig.get_path('purelib', vars={'base': str(tmp_path)})
    module = run(
        [sys.executable, '-c', 'import depth_ros; print(depth_ros.__file__)'],
        cwd=tmp_path,
        env={**clean_environment, 'PYTHONPATH': packages},
    )
    assert Path(module.strip()) == Path(packages) / 'depth_ros' / '__init__.py'
    assert sorted(p.name for p in Path(packages).iterdir()) == [
        'depth_ros',
        f'depth_ros-{depth_ros.__version__}.dist-info',
    ]


def test_one_version_everywhere(repository):
    manifest = ElementTree.parse(repository / 'package.xml')
    assert manifest.findtext('version') == depth_ros.__version__
    changelog = (repository / 'CHANGELOG.rst').read_text()
    assert re.search(r'^(\d+\.\d+\.\d+) ', changelog, re.MULTILINE)[1] == depth_ros.__version__


@pytest.fixture(scope='module')
def project(repository):
    return tomllib.loads((repository / 'pyproject.toml').read_text())['project']


@pytest.fixture(scope='module')
def pinned(repository):
    """Version of each package that the constraints give for this interpreter."""
    lines = (repository / 'constraints.txt').read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith('#')]
    return {
        canonicalize_name(r.name): str(r.specifier)
        for r in requirements
        if not r.marker or r.marker.evaluate()
    }


def test_constraints_pin_every_dependency(project, pinned):
    extras = project['optional-dependencies']
    wanted = {
        canonicalize_name(Requirement(text).name)
        for group in (project['dependencies'], *extras.values())
        for text in group
    }
    assert wanted - set(pinned) == set()
    assert [pin for pin in pinned.values() if not re.fullmatch(r'==[\w.]+', pin)] == []


def needed(requirements):
    """Names of all packages that requirements bring, directly or not, as they are installed here.

    Packages that are not installed are named too, but what they need is unknown.
    """
    names, queue = set(), [(Requirement(text), ('',)) for text in requirements]
    while queue:
        requirement, extras = queue.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({'extra': extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in names:
            continue
        names |= {name, (name, *requirement.extras)}
        try:
            further = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        queue += [(Requirement(text), ('', *requirement.extras)) for text in further]
    return {name for name in names if isinstance(name, str)}


def test_demo_brings_no_torch(repository, project):
    makefile = (repository / 'Makefile').read_text()
    extras = re.search(r'^extras_\.venv-demo := (.*)$', makefile, re.MULTILINE)[1].split(',')
    groups = project['optional-dependencies']
    demo = needed(project['dependencies'] + [r for extra in extras for r in groups[extra]])
    assert {'rclpy', 'rosbags', 'ros-rclpy', 'matplotlib'} & demo, 'the search found nothing'
    assert {'torch', 'lightning', 'timm'} & demo == set()
    assert 'torch' in needed(groups['train'])

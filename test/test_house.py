"""Rules of the house that no other tool checks."""

import ast
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

# The demo's recording and the networks' weights.
LARGE = re.compile(r'demo/.*\.mcap|models/.*\.(onnx|ckpt)')
LARGEST = 5 * 2**20

TORCH_WORLD = {'lightning', 'moderngl', 'onnxscript', 'timm', 'torch', 'torchvision', 'train'}
ROS_WORLD = {'launch', 'launch_ros', 'rclpy', 'sensor_msgs', 'nav_msgs', 'tf2_ros', 'cv_bridge'}
COPYLEFT = {'evo'}
"""Packages whose licence the Apache-2.0 package cannot build on; tests run their commands."""

# Python packages that pyproject.toml names and rosdep does not know. Nodes need onnx only.
NO_ROSDEP_KEY = {
    'backports',
    'compression',
    'distributed',
    'google',
    'lz4',
    'onnx',
    'openvino',
    'rosbags',
    'tensorrt_rtx',
}


def tracked(repository, *patterns):
    """Files of the repository, also those not yet committed."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '--', *patterns]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f'not a git checkout: {result.stderr.strip()}')
    return [path for name in result.stdout.splitlines() if (path := repository / name).is_file()]


def imports(path):
    """Top-level names of all modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split('.')[0])
    return names


@pytest.mark.parametrize(
    ('package', 'forbidden'), [('depth_ros', TORCH_WORLD), ('train', ROS_WORLD)]
)
def test_package_stays_in_its_world(repository, package, forbidden):
    files = tracked(repository, f'{package}/**.py', f'{package}/*.py')
    assert files
    found = {
        str(f.relative_to(repository)): bad
        for f in files
        if (bad := imports(f) & (forbidden | COPYLEFT))
    }
    assert not found


def test_package_xml_names_what_the_nodes_import(repository):
    manifest = ElementTree.parse(repository / 'package.xml')
    depends = {element.text for element in manifest.iter('exec_depend')}
    keys = {
        'numpy': 'python3-numpy',
        'cv2': 'python3-opencv',
        'jinja2': 'python3-jinja2',
        'matplotlib': 'python3-matplotlib',
        'tqdm': 'python3-tqdm',
        'yaml': 'python3-yaml',
        'onnxruntime': 'python3-onnxruntime-pip',
    }
    used = set()
    for path in tracked(repository, 'depth_ros/**.py', 'depth_ros/*.py', 'launch/*.py'):
        used |= imports(path)
    used -= set(sys.stdlib_module_names) | {'depth_ros'} | NO_ROSDEP_KEY
    assert {keys.get(name, name) for name in used} - depends == set()


def test_modules_that_training_shares_need_no_ros(repository):
    """train/ takes these from depth_ros, on machines without ROS 2."""
    code = (
        'import sys, depth_ros.inference.contract, depth_ros.core.camera, '
        'depth_ros.core.metrics.depth, depth_ros.core.metrics.semantics, '
        'depth_ros.core.metrics.trajectory, depth_ros.bags.reader\n'
        f'print(sorted({ROS_WORLD} & set(sys.modules)))'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=repository, text=True, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == '[]'


def test_no_large_files(repository):
    large = [
        str(path.relative_to(repository))
        for path in tracked(repository)
        if path.stat().st_size > LARGEST
    ]
    assert [name for name in large if not LARGE.fullmatch(name)] == []


def test_shipped_data_is_small(repository):
    def megabytes(pattern):
        return sum(path.stat().st_size for path in tracked(repository, pattern)) / 1e6

    assert megabytes('demo/street') <= 8, 'the synthetic recording that ships'
    assert megabytes('demo/highway') <= 3, 'the real one'
    assert megabytes(':(glob)models/*.onnx') < 15, 'what the nodes run'
    assert megabytes('models/*.ckpt') < 10, 'the start of other trainings'
    assert megabytes('models/synthetic') < 15, 'weights without real footage'
    assert megabytes('models') < 40, 'all weights'


def test_public_names_are_documented(repository):
    """Every module, and every public class and function of the two packages."""
    missing = []
    for path in tracked(repository, 'depth_ros', 'train'):
        if path.suffix != '.py':
            continue
        tree = ast.parse(path.read_text())
        if tree.body and not ast.get_docstring(tree):
            missing.append(str(path.relative_to(repository)))
        for node in tree.body:
            if (
                isinstance(node, ast.ClassDef | ast.FunctionDef)
                and node.name[0] != '_'
                and not ast.get_docstring(node)
            ):
                missing.append(f'{path.relative_to(repository)}:{node.lineno} {node.name}')
    assert not missing


@pytest.mark.parametrize('node', ['perception_node', 'odometry_node'])
def test_docs_have_the_parameters(repository, node):
    from depth_ros.nodes.parameters import TABLES
    from depth_ros.ros.parameters import markdown

    page = (repository / 'docs' / 'parameters.md').read_text()
    section = re.search(rf'<!-- parameters of {node} -->\n(.*?)\n<!-- end -->', page, re.DOTALL)
    assert section, f'docs/parameters.md has no table of the parameters of {node}'
    table = markdown(TABLES[node])
    assert section[1] == table, f'the table must be:\n{table}'


def heading_anchors(page):
    """Anchors that GitHub gives the headings of a Markdown page."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', title).lower().replace(' ', '-') for title in headings}


def test_links_lead_somewhere(repository):
    """Links of every page, to files and to headings."""
    dead, pages = [], tracked(repository, '*.md')
    for page in pages:
        text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
        for target, anchor in re.findall(r'\]\(([^)#:\s]*)(?:#([^)\s]*))?\)', text):
            file = (page.parent / target).resolve() if target else page
            if not file.exists() or anchor and anchor not in heading_anchors(file):
                dead.append(f'{page.relative_to(repository)}: {target}#{anchor}')
    assert len(pages) > 10
    assert dead == []


def test_docs_name_files_that_exist(repository):
    """Every path such as `depth_ros/core/camera.py` or `train/configs/`; NAME stands for any."""
    path = re.compile(
        r'(?<![\w./-])(?:depth_ros|train|test|docs|config|launch)/[\w./-]*(?:/|\.\w+)(?![\w/*{<-])'
    )
    missing, found = [], 0
    for page in tracked(repository, '*.md', '*.rst'):
        for name in path.findall(page.read_text()):
            found += 1
            if 'NAME' not in name and not (repository / name).exists():
                missing.append(f'{page.relative_to(repository)}: {name}')
    assert found > 30
    assert missing == []


def test_readme_is_a_newcomers_page(repository):
    """Short, and with every command in the table that says which one when."""
    readme = (repository / 'README.md').read_text()
    assert len(readme.split()) <= 1500
    table = re.search(r'## Which command when\n(.*?)\n## ', readme, re.DOTALL)[1]
    setup = (repository / 'setup.py').read_text()
    scripts = re.findall(r"f'(\w+) = \{name\}", setup)
    commands = ast.parse((repository / 'train' / '__main__.py').read_text())
    training = next(
        ast.literal_eval(node.value)
        for node in commands.body
        if isinstance(node, ast.Assign) and node.targets[0].id == 'COMMANDS'
    )
    assert scripts and training
    wanted = scripts + [f'python -m train {name}' for name in training]
    assert [name for name in wanted if f'`{name}' not in table] == []


def test_readme_topics_are_the_nodes_topics(repository):
    """Every name in the first column of the README's topic tables is one in the package's code."""
    readme = (repository / 'README.md').read_text()
    section = re.search(r'## Topics\n(.*?)\n## ', readme, re.DOTALL)[1]
    cells = [line.split('|')[1] for line in section.splitlines() if line.startswith('| `')]
    # '/compressed' is image_transport's convention for any image topic, not a name of its own.
    topics = {name.removesuffix('/compressed') for name in re.findall(r'`(.*?)`', ''.join(cells))}
    literals = set()
    for path in tracked(repository, 'depth_ros'):
        if path.suffix == '.py':
            literals |= {
                node.value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    assert topics
    assert topics - literals == set()

"""`colcon test` on a robot has what package.xml declares: no torch, no onnx, no rosbags."""

import subprocess
import sys

import pytest

CODE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'lightning', 'timm', 'onnx', 'rosbags'):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Missing())
import pytest
sys.exit(pytest.main(['--collect-only', '-q', '-rs', *sys.argv[1:]]))
"""


def collected(repository, *paths):
    return subprocess.run(
        [sys.executable, '-c', CODE, *paths],
        cwd=repository,
        text=True,
        capture_output=True,
        timeout=120,
    )


def test_what_needs_more_is_skipped_with_the_reason(repository):
    found = collected(
        repository,
        *('test/train/test_losses.py', 'test/nodes/test_nodes.py', 'test/core/test_se3.py'),
    )
    assert found.returncode == 0, found.stdout
    assert 'test_se3.py::' in found.stdout and 'test_nodes.py::' not in found.stdout
    assert 'torch is not installed; package.xml has it not' in found.stdout
    assert 'onnx is not installed; package.xml has it not' in found.stdout


@pytest.mark.slow
def test_all_tests_are_collected_without_an_error(repository):
    found = collected(repository)
    assert found.returncode == 0, found.stdout[-3000:]


def test_what_is_declared_must_be_there(repository, tmp_path):
    file = tmp_path / 'test_file.py'
    file.write_text('import no_such_package\n')
    assert 'error' in collected(repository, str(file), '-c', 'pyproject.toml').stdout

"""Shared by all tests: an isolated ROS 2 environment, the repository, real data where it is."""

import os
import re
import sys
from pathlib import Path

import pytest

from depth_ros.ros.domain import claim_domain

REPOSITORY = Path(__file__).resolve().parents[1]
SLOW = {'data_dir', 'renderer', 'trained'}
"""Fixtures that read real recordings, render or train."""

# Before any test module imports rclpy, and inherited by the nodes that tests start.
_domain = claim_domain()
os.environ['ROS_DOMAIN_ID'] = str(_domain)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
for _name in ('ROS_LOCALHOST_ONLY', 'ROS_STATIC_PEERS', 'ROS_DISCOVERY_SERVER', 'ROS_NAMESPACE'):
    os.environ.pop(_name, None)


def pytest_collection_modifyitems(items):
    """Mark what is slow by what it uses; builds on a GPU can take minutes on a Jetson."""
    for item in items:
        # What starts nodes or talks to them needs DDS.
        if {'NodeProcess', 'Peer'} & vars(item.module).keys() or SLOW & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.timeout(1800))


# What package.xml cannot declare, as rosdep has no keys for it, or a robot does not need.
UNDECLARED = {
    *('backports', 'cuda', 'distributed', 'evo', 'google', 'hypothesis', 'lightning', 'lz4'),
    *('moderngl', 'onnx', 'onnxscript', 'openvino', 'PIL', 'pycolmap', 'rosbags', 'scipy'),
    *('tensorboard', 'tensorrt_rtx', 'timm', 'torch', 'torchmetrics', 'torchvision'),
}


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    """Skip files that need what package.xml does not declare, so that colcon tests the rest."""
    outcome = yield
    report = outcome.get_result()
    if report.outcome != 'failed' or not isinstance(collector, pytest.Module):
        return
    missing = re.findall(r"No module named '(\w+)|not installed \((\w+)", str(report.longrepr))
    names = {a or b for a, b in missing} & UNDECLARED
    if names:
        report.outcome, report.result = 'skipped', []
        reason = f'Skipped: {", ".join(sorted(names))} is not installed; package.xml has it not'
        report.longrepr = str(collector.path), 1, reason


def pytest_report_header():
    return f'ROS_DOMAIN_ID: {_domain}, on this machine only'


@pytest.fixture(scope='session')
def repository():
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope='session')
def data_dir():
    """Folder of real recordings; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get('DEPTH_ROS_DATA', REPOSITORY.parent / 'shared' / 'data'))
    if not folder.is_dir():
        pytest.skip(f'no real data at {folder}; DEPTH_ROS_DATA names its folder')
    return folder


@pytest.fixture(scope='session')
def gpu():
    """Name of the GPU; tests that need one are skipped without it or TensorRT, with the reason."""
    from depth_ros.inference.engine import EngineError
    from depth_ros.inference.runtimes.tensorrt import check_machine

    try:
        return check_machine()[1]
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture
def clean_environment():
    """This process's environment for another installation's programs.

    The ROS wheels leave their library path to child processes, where it would mix two
    installations.
    """
    leaks = ('LD_LIBRARY_PATH', '_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'PYTHONPATH')
    return {name: value for name, value in os.environ.items() if name not in leaks}


@pytest.fixture
def machine(monkeypatch):
    """This machine with a GPU and TensorRT, both stand-ins; returns the CUDA runtime's."""
    from support import tensorrt_standins as standins

    cuda = standins.Cuda()
    monkeypatch.setitem(sys.modules, 'cuda.bindings.runtime', cuda)
    monkeypatch.setitem(sys.modules, 'tensorrt', standins.TensorRt(cuda))
    return cuda


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A model with its engine, and the stand-in for CUDA, in this process."""
    from support import tensorrt_machine
    from support.onnx_models import save_pose

    from depth_ros.deploy.build import build

    monkeypatch.setenv(tensorrt_machine.FOLDER, str(tmp_path))
    monkeypatch.setitem(sys.modules, 'cuda.bindings.runtime', tensorrt_machine.CUDA)
    monkeypatch.setitem(sys.modules, 'tensorrt', tensorrt_machine.TENSORRT)
    source = save_pose(tmp_path / 'net.onnx')
    build(source, source.with_suffix('.engine'))
    yield source, tensorrt_machine.CUDA
    assert tensorrt_machine.CUDA.held == {}

"""The engine: every installed runtime gives the same, right numbers, and clear errors."""

import subprocess
import sys

import numpy as np
import pytest
from support.onnx_models import HEIGHT, WIDTH, row_depth, save_perception, save_pose

from depth_ros.inference.contract import ContractError
from depth_ros.inference.engine import EngineError
from depth_ros.inference.loader import BACKENDS, installed_backends, load_engine

IMAGE = np.full((1, HEIGHT, WIDTH, 3), 200, np.uint8)


@pytest.fixture(params=[b for b in BACKENDS if b != 'auto'])
def backend(request):
    if request.param not in installed_backends():
        pytest.skip(f'{request.param} is not installed')
    return request.param


def test_perception(tmp_path, backend):
    engine = load_engine(save_perception(tmp_path / 'net.onnx'), backend, threads=1)
    assert (engine.backend, engine.threads) == (backend, 1)
    outputs = engine.infer({'image': IMAGE})
    np.testing.assert_allclose(outputs['depth'], row_depth(), rtol=1e-6)
    assert outputs['depth'].dtype == np.float32
    assert outputs['labels'].dtype == np.uint8 and (outputs['labels'] == 200 // 64).all()


def test_pose(tmp_path, backend):
    motion = (0.01, -0.02, 0.03, 0.1, 0.2, 0.9)
    engine = load_engine(save_pose(tmp_path / 'pose.onnx', motion=motion), backend)
    pose = engine.infer({'previous': IMAGE, 'current': IMAGE})['pose']
    np.testing.assert_allclose(pose, motion, atol=1e-6)


def test_outputs_follow_the_inputs_of_each_call(tmp_path, backend):
    engine = load_engine(save_perception(tmp_path / 'net.onnx'), backend)
    kept = engine.infer({'image': IMAGE})['labels'].copy()
    # Not contiguous, as a view into a larger camera image would be.
    dark = np.zeros((1, HEIGHT, 2 * WIDTH, 3), np.uint8)[:, :, ::2]
    assert (engine.infer({'image': dark})['labels'] == 0).all() and (kept == 3).all()


@pytest.mark.parametrize(
    'wrong',
    [
        {},
        {'picture': IMAGE},
        {'image': IMAGE[0]},
        {'image': IMAGE.astype(np.float32)},
        {'image': IMAGE[:, :-1]},
    ],
)
def test_wrong_inputs_are_named(tmp_path, backend, wrong):
    engine = load_engine(save_perception(tmp_path / 'net.onnx'), backend)
    with pytest.raises(EngineError, match="input 'image'"):
        engine.infer(wrong)


def test_a_closed_engine_says_so(tmp_path, backend):
    engine = load_engine(save_perception(tmp_path / 'net.onnx'), backend)
    engine.warm_up()
    engine.close()
    with pytest.raises(EngineError, match='closed'):
        engine.infer({'image': IMAGE})


def test_auto_takes_the_preferred_installed_runtime(tmp_path):
    engine = load_engine(save_perception(tmp_path / 'net.onnx'))
    assert engine.backend == installed_backends()[0]


def test_bad_requests(tmp_path):
    path = save_perception(tmp_path / 'net.onnx')
    with pytest.raises(EngineError, match="'tensorflow' is unknown"):
        load_engine(path, 'tensorflow')
    with pytest.raises(EngineError, match='threads is 0'):
        load_engine(path, threads=0)
    with pytest.raises(ContractError, match='nowhere.onnx'):
        load_engine(tmp_path / 'nowhere.onnx')


SIGNALS_AMONG_ENGINES = """
import gc, signal, sys
from depth_ros.inference.loader import load_engine
path, backend = sys.argv[1:]
count = 0
def handler(*_):
    global count
    count += 1
signal.signal(signal.SIGUSR1, handler)
engines = []
for oldest_first in (True, False):
    engines += [load_engine(path, backend) for _ in range(3)]
    while engines:
        engines.pop(0 if oldest_first else -1).close()
        gc.collect()
        signal.raise_signal(signal.SIGUSR1)
print(count)
"""


@pytest.mark.slow
def test_signals_arrive_whatever_order_engines_are_closed_in(tmp_path, backend):
    path = save_perception(tmp_path / 'net.onnx')
    result = subprocess.run(
        [sys.executable, '-c', SIGNALS_AMONG_ENGINES, path, backend], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, '6\n'), result.stderr

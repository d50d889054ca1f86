"""TensorRT as far as a machine without a GPU allows."""

import os
import re
import sys

import numpy as np
import pytest
from support import tensorrt_standins as standins
from support.onnx_models import HEIGHT, WIDTH, save_perception, save_pose
from support.tensorrt_builds import (
    GPU,
    engine_file,
)

from depth_ros.commands import build_engine
from depth_ros.deploy.bench import measure
from depth_ros.deploy.layers import Effort
from depth_ros.files import write_file
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import EngineError, UnfitEngineError
from depth_ros.inference.engine_file import read_record, record_path
from depth_ros.inference.loader import installed_backends, load_engine
from depth_ros.inference.runtimes import tensorrt as tensorrt_engine
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine
from depth_ros.inference.runtimes.tensorrt import TensorRtEngine, find_gpu


@pytest.fixture
def images():
    """Two different images."""
    return np.random.default_rng(0).integers(0, 256, (2, 1, HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(params=['path', 'workspace'])
def commands(request, tmp_path, monkeypatch):
    """What comes before a command where it is on the path, and where it is not."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    monkeypatch.setenv('PATH', str(folder))
    if request.param == 'workspace':
        return 'ros2 run depth_ros '
    (folder / 'build_engine').touch(0o755)
    return ''


def load(path, cuda, **options):
    return TensorRtEngine(path, trt=standins.TensorRt(cuda), cudart=cuda, **options)


@pytest.mark.parametrize('mapped', [None, False, True])
@pytest.mark.parametrize('integrated', [False, True])
@pytest.mark.parametrize('failing', [None, ('cudaStreamBeginCapture', 0)])
def test_same_results_as_onnxruntime(tmp_path, images, mapped, integrated, failing):
    for save, names in ((save_perception, ('image',)), (save_pose, ('previous', 'current'))):
        source = save(tmp_path / 'net.onnx')
        cuda = standins.Cuda(integrated=integrated)
        cuda.failing = failing
        engine = load(engine_file(source), cuda, mapped=mapped)
        reference = OnnxRuntimeEngine(source, read_contract(source), 1)
        for order in (images, images[::-1]):
            inputs = dict(zip(names, order, strict=False))
            expected, found = reference.infer(inputs), engine.infer(inputs)
            assert found.keys() == expected.keys()
            for name in expected:
                np.testing.assert_array_equal(found[name], expected[name])
                assert found[name].dtype == expected[name].dtype
        kept = found[name]
        engine.close()
        np.testing.assert_array_equal(kept, expected[name])
        with pytest.raises(EngineError, match='closed'):
            engine.infer(inputs)


COPIED = ['cudaMemcpyAsync', 'execute_async_v3', 'cudaMemcpyAsync', 'cudaMemcpyAsync']
RELEASED = ['cudaStreamDestroy', '~IExecutionContext', '~ICudaEngine', '~Runtime']


@pytest.mark.parametrize(
    ('mapped', 'kernels', 'memory', 'freed'),
    [
        (False, COPIED, ['cudaHostAlloc', 'cudaMalloc'], ['cudaFree', 'cudaFreeHost']),
        (
            True,
            ['execute_async_v3'],
            ['cudaHostAlloc', 'cudaHostGetDevicePointer'],
            ['cudaFreeHost'],
        ),
    ],
)
def test_order_of_calls(tmp_path, images, mapped, kernels, memory, freed):
    cuda = standins.Cuda()
    engine = load(engine_file(save_perception(tmp_path / 'net.onnx')), cuda, mapped=mapped)
    assert cuda.calls == [
        'cudaGetDeviceCount',
        'cudaGetDeviceProperties',
        'Runtime',
        'deserialize_cuda_engine',
        'create_execution_context',
        'cudaStreamCreateWithFlags',
        *([*memory, 'set_tensor_address'] * 3),
        *kernels,
        'cudaStreamSynchronize',
        'cudaStreamBeginCapture',
        *kernels,
        'cudaStreamEndCapture',
        'cudaGraphInstantiate',
    ]
    cuda.calls.clear()
    engine.infer({'image': images[0]})
    assert cuda.calls == ['cudaGraphLaunch', 'cudaStreamSynchronize']
    cuda.calls.clear()
    engine.close()
    engine.close()
    assert cuda.calls == ['cudaGraphExecDestroy', 'cudaGraphDestroy', *(freed * 3), *RELEASED]
    assert cuda.held == {}


@pytest.mark.parametrize('failing', [None, ('cudaStreamEndCapture', 0)])
def test_nothing_leaks_over_many_runs(tmp_path, images, failing):
    path = engine_file(save_perception(tmp_path / 'net.onnx'))
    cuda = standins.Cuda()
    cuda.failing = failing
    engine = load(path, cuda)
    held = dict(cuda.held)
    for _ in range(1000):
        engine.infer({'image': images[0]})
    assert cuda.held == held
    engine.close()
    assert cuda.held == {}


@pytest.mark.parametrize(
    ('name', 'calls'),
    [
        ('cudaGetDeviceProperties', 0),
        ('cudaDeviceGetAttribute', 0),
        ('deserialize_cuda_engine', 0),
        ('create_execution_context', 0),
        ('cudaStreamCreateWithFlags', 0),
        ('cudaHostAlloc', 0),
        ('cudaHostAlloc', 2),
        ('cudaMalloc', 0),
        ('cudaMalloc', 2),
        ('set_tensor_address', 1),
        ('cudaMemcpyAsync', 0),
        ('cudaMemcpyAsync', 2),
        ('execute_async_v3', 0),
        ('cudaStreamSynchronize', 0),
        ('Runtime', 0),
        ('cudaHostGetDevicePointer', 0),
        ('cudaHostGetDevicePointer', 2),
    ],
)
def test_a_failure_while_loading_names_the_call_and_leaves_nothing(tmp_path, name, calls):
    cuda = standins.Cuda(integrated='Pointer' in name)
    cuda.failing = (name, calls)
    named = {
        'Runtime': 'no runtime .*no memory for a start',
        'deserialize_cuda_engine': 'no engine .*damaged',
        'create_execution_context': 'no context .*no reason given',
    }.get(name, name)
    with pytest.raises(EngineError, match=named):
        load(engine_file(save_perception(tmp_path / 'net.onnx')), cuda)
    assert cuda.held == {}


@pytest.mark.parametrize(
    ('failing', 'graphs'),
    [
        (('cudaStreamBeginCapture', 0), 0),
        (('cudaMemcpyAsync', 3), 0),
        (('execute_async_v3', 1), 0),
        (('cudaStreamEndCapture', 0), 0),
        (('cudaGraphInstantiate', 0), 1),
    ],
)
def test_without_a_graph_it_runs_all_the_same(tmp_path, images, caplog, failing, graphs):
    source = save_perception(tmp_path / 'net.onnx')
    cuda = standins.Cuda()
    cuda.failing = failing
    engine = load(engine_file(source), cuda)
    assert 'cudaGetLastError' in cuda.calls
    assert f'without a CUDA graph, a little slower: {failing[0]} failed' in caplog.text
    assert list(cuda.held.values()).count('graph') == graphs
    cuda.calls.clear()
    expected = OnnxRuntimeEngine(source, read_contract(source), 1).infer({'image': images[0]})
    found = engine.infer({'image': images[0]})
    np.testing.assert_array_equal(found['labels'], expected['labels'])
    assert cuda.calls == [*COPIED, 'cudaStreamSynchronize']
    engine.close()
    assert cuda.held == {}


@pytest.mark.parametrize(
    ('graph', 'name', 'calls', 'reason'),
    [
        (True, 'cudaGraphLaunch', 0, 'cudaErrorIllegalAddress'),
        (True, 'cudaStreamSynchronize', 0, 'cudaErrorIllegalAddress'),
        (False, 'cudaMemcpyAsync', 0, 'cudaErrorIllegalAddress'),
        (False, 'cudaMemcpyAsync', 2, 'cudaErrorIllegalAddress'),
        (False, 'execute_async_v3', 0, 'no reason given'),
        (False, 'cudaStreamSynchronize', 0, 'cudaErrorIllegalAddress'),
    ],
)
def test_a_failure_while_running(tmp_path, images, graph, name, calls, reason):
    cuda = standins.Cuda()
    cuda.failing = None if graph else ('cudaStreamBeginCapture', 0)
    engine = load(engine_file(save_perception(tmp_path / 'net.onnx')), cuda)
    cuda.failing = (name, calls)
    with pytest.raises(EngineError, match=f'{name} failed: {reason}'):
        engine.infer({'image': images[0]})
    engine.close()
    assert cuda.held == {}


def test_no_gpu_is_found_before_tensorrt_is_touched(tmp_path):
    path = engine_file(save_perception(tmp_path / 'net.onnx'))
    for devices, reason in ((0, 'no device'), (None, 'cudaErrorInsufficientDriver')):
        cuda = standins.Cuda(devices)
        with pytest.raises(EngineError, match=f'needs an NVIDIA GPU.*{reason}'):
            TensorRtEngine(path, trt=object(), cudart=cuda)
        assert cuda.calls == ['cudaGetDeviceCount']


def test_a_driver_that_is_missing_is_told_each_time(tmp_path, machine, capsys):
    source = save_perception(tmp_path / 'net.onnx')
    machine.devices, machine.lazy = None, True
    for reason in ('Failed to dlopen libcuda.so.1', 'Function "cuInit" not found'):
        with pytest.raises(EngineError, match=f'needs an NVIDIA GPU .*{reason}; .*on the CPU'):
            find_gpu(machine)
    assert build_engine.main([str(source)]) == 1
    assert 'build_engine: TensorRT needs an NVIDIA GPU' in capsys.readouterr().err
    engine_file(source)
    assert load_engine(source).backend == installed_backends()[0]


@pytest.mark.parametrize(
    ('changed', 'problem'),
    [
        ({'tensorrt': '10.7.0'}, 'built with TensorRT 10.7.0, this machine has 10.3.0'),
        ({'gpu': 'Orin'}, 'built for Orin; this machine has Stand-in'),
        ({'source_sha256': '0'}, "from another version of '.*net.onnx'"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused(tmp_path, commands, changed, problem):
    source = save_perception(tmp_path / 'net.onnx')
    path = engine_file(
        source,
        **changed,
        command='build_engine /there/net.onnx --precision int8 '
        "--calibration '/my bag' --output /there/net.engine",
    )
    with pytest.raises(EngineError, match=f'{problem}.*; build it again: ') as refused:
        load(path, standins.Cuda())
    # With the paths of this machine.
    assert str(refused.value).endswith(
        f': {commands}build_engine {source} --precision int8 '
        f"--calibration '/my bag' --output {path}"
    )


def test_a_command_is_told_as_this_machine_runs_it(tmp_path, commands, machine, caplog):
    source = save_perception(tmp_path / 'net.onnx')
    path = engine_file(source, source='other.onnx')
    load_engine(source).close()
    assert f'or replace it: {commands}build_engine {source}' in caplog.text
    path.unlink()
    with pytest.raises(EngineError) as refused:
        read_record(path)
    assert str(refused.value).endswith(
        f'; build it: {commands}build_engine {source} --output {path}'
    )
    with pytest.raises(EngineError) as refused:
        measure(source, 'tensorrt', Effort(runs=1))
    assert str(refused.value).endswith(f'; build it: {commands}build_engine {source}')


def test_an_engine_without_its_onnx_file_runs(tmp_path, images):
    source = save_perception(tmp_path / 'net.onnx')
    path = engine_file(source)
    source.unlink()
    assert load(path, standins.Cuda()).infer({'image': images[0]})


def test_tensors_other_than_the_contracts_are_refused(tmp_path):
    other = read_contract(save_perception(tmp_path / 'other.onnx', width=WIDTH * 2))
    cuda = standins.Cuda()
    with pytest.raises(
        UnfitEngineError,
        match='tensors .*but its contract says.*; build it again: .*build_engine .*net.onnx',
    ):
        load(engine_file(save_perception(tmp_path / 'net.onnx'), contract=other), cuda)
    assert cuda.held == {}


@pytest.mark.parametrize('share', [0, 0.5])
def test_a_damaged_engine_is_to_be_built_again(tmp_path, share):
    path = engine_file(save_perception(tmp_path / 'net.onnx'))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    cuda = standins.Cuda()
    with pytest.raises(UnfitEngineError, match="no engine of '.*damaged; build it again: .*build_"):
        load(path, cuda)
    assert cuda.held == {}


@pytest.mark.parametrize('name', ['create_execution_context', 'cudaMalloc'])
def test_what_a_build_does_not_mend_is_no_unfit_engine(tmp_path, name):
    cuda = standins.Cuda()
    cuda.failing = (name, 0)
    with pytest.raises(EngineError) as refused:
        load(engine_file(save_perception(tmp_path / 'net.onnx')), cuda)
    assert not isinstance(refused.value, UnfitEngineError)


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    for call in (os.fsync, os.replace):

        def note(*arguments, call=call):
            size = os.fstat(arguments[0]).st_size if call.__name__ == 'fsync' else None
            steps.append((call.__name__, size))
            return call(*arguments)

        monkeypatch.setattr(os, call.__name__, note)
    write_file(tmp_path / 'file', b'content')
    assert steps == [('fsync', 7), ('replace', None)]
    assert (tmp_path / 'file').read_bytes() == b'content'


def test_missing_and_damaged_files(tmp_path):
    path = engine_file(save_perception(tmp_path / 'net.onnx'))
    record = record_path(path).read_text()
    for text in (
        '',
        '[]',
        '{}',
        record.replace('"gpu"', '"gpus"'),
        record.replace('"version": 1', '"version": 2'),
    ):
        record_path(path).write_text(text)
        with pytest.raises(EngineError, match="json' is damaged.*build_engine .*net.onnx"):
            read_record(path)
    for file in (record_path(path), path):
        file.unlink()
        with pytest.raises(EngineError, match=f"'{file}' does not exist; build it"):
            read_record(path)


# Which runtime a file gets


def test_a_fitting_engine_is_preferred(tmp_path, images, machine):
    assert tensorrt_engine.check_machine() == (standins.TensorRt.__version__, GPU)
    source = save_perception(tmp_path / 'net.onnx')
    path = engine_file(source)
    for file, backend in ((path, 'auto'), (source, 'auto'), (source, 'onnxruntime')):
        engine = load_engine(file, backend, threads=3)
        assert engine.backend == ('onnxruntime' if backend != 'auto' else 'tensorrt')
        assert engine.threads == 3 and engine.contract == read_contract(source)
        assert (engine.infer({'image': images[0]})['depth'] > 0).all()
        engine.close()
    assert machine.held == {}
    with pytest.raises(EngineError, match="'onnxruntime' cannot run '.*net.engine'; leave"):
        load_engine(path, 'onnxruntime')


@pytest.mark.parametrize(
    ('changed', 'devices', 'reason'),
    [
        ({'tensorrt': '10.7.0'}, 1, 'TensorRT 10.7.0.*build it again: .*build_engine'),
        ({'source_sha256': '0'}, 1, 'another version.*build it again: .*build_engine'),
        (
            {'source': 'other.onnx'},
            1,
            "built from 'other.onnx'.*replace it: .*build_engine .*net.onnx",
        ),
        ({}, None, 'needs an NVIDIA GPU'),
    ],
)
def test_with_an_engine_that_does_not_fit_the_onnx_file_runs(
    tmp_path, machine, caplog, changed, devices, reason
):
    source = save_perception(tmp_path / 'net.onnx')
    engine_file(source, **changed)
    machine.devices = devices
    assert load_engine(source).backend == installed_backends()[0]
    assert re.search(f"net.engine' is not used: .*{reason}", caplog.text)


def test_what_is_not_installed_is_named(tmp_path, machine, monkeypatch):
    path = engine_file(save_perception(tmp_path / 'net.onnx'))
    machine.failing = ('cudaHostAlloc', 0)
    with pytest.raises(EngineError, match='cudaHostAlloc failed'):
        load_engine(path)
    sys.modules['tensorrt'].__version__ = '8.6.1'
    with pytest.raises(EngineError, match='TensorRT 8.6.1 is too old; install 10.3'):
        load_engine(path)
    for name, message in (
        ('tensorrt', 'TensorRT is not installed'),
        ('cuda.bindings.runtime', 'CUDA bindings are not installed'),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(EngineError, match=f'{message}.*pip install'):
            load_engine(path)

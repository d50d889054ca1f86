"""TensorRT as far as a machine without a GPU allows, and on a GPU where there is one."""

import ast
import inspect
import os
import re
import subprocess
import sys
import threading
from argparse import ArgumentParser
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import helper, numpy_helper
from support import tensorrt_machine
from support import tensorrt_standins as standins
from support.onnx_models import HEIGHT, WIDTH, row_depth, save_perception, save_pose, unneeded
from support.tensorrt_builds import (
    GPU,
    RTX_WARNINGS,
    build_here,
    check_built,
    check_plan,
    engine_file,
    export_networks,
    real_parameters,
    real_tensorrt,
)

from depth_ros.commands import build_engine
from depth_ros.deploy import build as engine_build
from depth_ros.deploy.bench import measure
from depth_ros.deploy.build import build
from depth_ros.deploy.fp16 import to_fp16
from depth_ros.deploy.layers import Effort
from depth_ros.deploy.quantize import quantize
from depth_ros.files import file_hash, write_file
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import EngineError, UnfitEngineError
from depth_ros.inference.engine_file import PRECISIONS, EngineRecord, read_record, record_path
from depth_ros.inference.loader import installed_backends, load_engine
from depth_ros.inference.parity_measures import Bounds
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


# The stand-ins and the real modules


def real_cuda():
    return pytest.importorskip('cuda.bindings.runtime', reason='cuda-bindings is not installed')


def functions(cls):
    """Public methods that a class defines, by name."""
    return {
        name: value
        for name, value in vars(cls).items()
        if inspect.isfunction(value) and not name.startswith('_')
    }


def test_the_stand_in_for_cuda_is_like_the_real_one():
    cudart, checked = real_cuda(), 0
    for name, function in functions(standins.Cuda).items():
        if name.startswith('cuda'):
            expected = list(inspect.signature(getattr(cudart, name)).parameters)
            assert list(inspect.signature(function).parameters)[1:] == expected, name
            checked += 1
    assert checked > 15
    for name in ('cudaHostAllocDefault', 'cudaHostAllocMapped', 'cudaStreamNonBlocking'):
        assert getattr(cudart, name) == getattr(standins.Cuda, name)
    for enum in (
        standins.Error,
        standins.Cuda.cudaDeviceAttr,
        standins.Cuda.cudaMemcpyKind,
        standins.Cuda.cudaStreamCaptureMode,
    ):
        real = getattr(cudart, 'cudaError_t' if enum is standins.Error else enum.__name__)
        for member in enum:
            assert int(getattr(real, member.name)) == member, member
    for name in ('name', 'major', 'minor', 'multiProcessorCount'):
        assert hasattr(cudart.cudaDeviceProp, name)


def test_the_real_cuda_says_whether_there_is_a_gpu():
    cudart = real_cuda()
    status, count = cudart.cudaGetDeviceCount()
    if status == cudart.cudaError_t.cudaSuccess and count:
        assert 'compute capability' in find_gpu(cudart)
    else:
        with pytest.raises(EngineError, match='needs an NVIDIA GPU and its driver'):
            find_gpu(cudart)


@pytest.mark.parametrize(
    'stand_in',
    [
        standins.Runtime,
        standins.ICudaEngine,
        standins.IExecutionContext,
        tensorrt_machine.Builder,
        tensorrt_machine.OnnxParser,
        tensorrt_machine.IBuilderConfig,
    ],
)
def test_the_stand_in_for_tensorrt_is_like_the_real_one(stand_in):
    real = getattr(real_tensorrt(), stand_in.__name__)
    for name, function in functions(stand_in).items():
        names = list(inspect.signature(function).parameters)[1:]
        found = real_parameters(getattr(real, name))
        # Some have more, which are optional.
        assert found[: len(names)] == names, name
    for name, value in vars(stand_in).items():
        assert not isinstance(value, property) or isinstance(getattr(real, name), property)


def test_the_logger_works_with_the_real_one(caplog):
    trt = real_tensorrt()
    logger = tensorrt_engine.error_log(trt)
    assert real_parameters(trt.Runtime.__init__) == ['logger']
    assert isinstance(logger, trt.ILogger)
    logger.log(trt.ILogger.Severity.ERROR, 'wrong')
    logger.log(trt.ILogger.Severity.WARNING, 'odd')
    logger.log(trt.ILogger.Severity.INFO, 'chat')
    assert logger.errors == ['wrong'] and 'odd' in caplog.text and 'chat' not in caplog.text
    assert trt.nptype(trt.DataType.UINT8) == np.uint8
    assert trt.nptype(trt.DataType.FLOAT) == np.float32


# What our code uses, in the real modules

SOURCES = sorted((Path(__file__).parents[2] / 'depth_ros').rglob('*.py'))
OBJECTS = {  # the classes of TensorRT behind our variables
    'builder': 'Builder',
    'parser': 'OnnxParser',
    'config': 'IBuilderConfig',
    'cache': 'ITimingCache',
    '_runtime': 'Runtime',
    '_engine': 'ICudaEngine',
    '_context': 'IExecutionContext',
}
USERS = ('runtimes/tensorrt.py', 'deploy/build.py', 'deploy/bench.py')


def nodes(kind, files=SOURCES):
    """The nodes of a kind of our code's syntax trees."""
    return [
        node
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kind)
    ]


def names(node):
    """A chain of attributes as names, without a leading self; empty for anything else."""
    if isinstance(node, ast.Attribute):
        chain = names(node.value)
        return [*chain, node.attr] if chain or is_self(node.value) else []
    return [node.id] if isinstance(node, ast.Name) and node.id != 'self' else []


def is_self(node):
    return isinstance(node, ast.Name) and node.id == 'self'


@pytest.mark.parametrize(
    ('real', 'variables', 'least'),
    [('tensorrt_rtx', ('trt', '_trt'), 12), ('cuda.bindings.runtime', ('cudart', '_cudart'), 8)],
)
def test_every_name_that_is_used_exists_in_the_real_module(real, variables, least):
    module = pytest.importorskip(real)
    used = {
        tuple(chain[1:])
        for chain in map(names, nodes(ast.Attribute))
        if len(chain) > 1 and chain[0] in variables
    }
    for chain in used:
        attrgetter('.'.join(chain))(module)
    assert len(used) >= least


def test_every_cuda_function_gets_the_arguments_that_the_real_one_takes():
    cudart, checked = real_cuda(), set()
    for call in nodes(ast.Call):
        named = [
            i
            for i, argument in enumerate(call.args)
            if isinstance(argument, ast.Constant)
            and re.fullmatch(r'cuda[A-Z]\w+', str(argument.value))
        ]
        given = {call.args[i].value: len(call.args) - i - 1 for i in named}
        if len(named) == 2:  # what releases the result of the other one, and takes it alone
            given[call.args[named[0]].value] = 1
        chain = names(call.func)
        if chain[:-1] in (['cudart'], ['_cudart']):
            given[chain[-1]] = len(call.args)
        for name, count in given.items():
            assert len(inspect.signature(getattr(cudart, name)).parameters) == count, name
            checked.add(name)
    assert {'cudaGetDeviceCount', 'cudaMalloc', 'cudaFree', 'cudaGraphLaunch'} < checked
    assert len(checked) > 15


def test_every_method_of_tensorrt_gets_parameters_that_the_real_one_has():
    trt, checked = real_tensorrt(), set()
    files = [path for path in SOURCES if path.as_posix().endswith(USERS)]
    for call in nodes(ast.Call, files):
        chain = names(call.func)
        if len(chain) != 2 or chain[0] not in OBJECTS or hasattr(ArgumentParser, chain[1]):
            continue
        parameters = real_parameters(getattr(getattr(trt, OBJECTS[chain[0]]), chain[1]))
        assert len(call.args) + len(call.keywords) <= len(parameters), chain
        assert {keyword.arg for keyword in call.keywords} <= set(parameters), chain
        checked.add(chain[1])
    for node in nodes(ast.Attribute, files):
        chain = names(node)
        if len(chain) == 2 and chain[0] in OBJECTS and not hasattr(ArgumentParser, chain[1]):
            assert hasattr(getattr(trt, OBJECTS[chain[0]]), chain[1]), chain
    assert {'parse', 'create_network', 'set_timing_cache', 'execute_async_v3'} < checked


@pytest.mark.parametrize(
    ('base', 'method', 'parameters'),
    [
        ('ILogger', 'log', ['severity', 'msg']),
        ('IProfiler', 'report_layer_time', ['layer_name', 'ms']),
        ('IProgressMonitor', 'phase_start', ['phase_name', 'parent_phase', 'num_steps']),
        ('IProgressMonitor', 'step_complete', ['phase_name', 'step']),
        ('IProgressMonitor', 'phase_finish', ['phase_name']),
    ],
)
def test_what_tensorrt_calls_has_the_parameters_that_it_gives(base, method, parameters):
    """By position: their names are free."""
    assert real_parameters(getattr(getattr(real_tensorrt(), base), method)) == parameters
    ours = [
        function
        for cls in nodes(ast.ClassDef)
        for function in cls.body
        if isinstance(function, ast.FunctionDef)
        and function.name == method
        and any(names(parent)[-1:] == [base] for parent in cls.bases)
    ]
    assert [len(function.args.args) - 1 for function in ours] == [len(parameters)]


# Building


@RTX_WARNINGS
@pytest.mark.parametrize('precision', PRECISIONS)
def test_engine_and_record(tmp_path, capsys, precision):
    source = save_perception(tmp_path / 'net.onnx')
    engine = tmp_path / 'new folder' / 'net.engine'
    build_here(source, engine, precision=precision)
    assert 'which kernels are fastest on Stand-in' in capsys.readouterr().err
    record = read_record(engine)
    assert record == EngineRecord(
        contract=read_contract(source),
        source='net.onnx',
        source_sha256=file_hash(source),
        precision=precision,
        tensorrt=real_tensorrt().__version__,
        cuda=12060,
        gpu=GPU,
        command=f"build_engine {source} --precision {precision} --output '{engine}'",
    )
    assert {path.name for path in engine.parent.iterdir()} == {
        'net.engine',
        'net.engine.json',
        'net.engine.timing',
    }


@RTX_WARNINGS
def test_a_failed_build_leaves_what_was_there(tmp_path):
    source, engine = save_perception(tmp_path / 'net.onnx'), tmp_path / 'net.engine'
    build_here(source, engine)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    stop = threading.Event()
    stop.set()
    with pytest.raises(EngineError, match='stopped; nothing was written'):
        build_here(source, engine, stop=stop)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@RTX_WARNINGS
def test_timings_of_earlier_builds_are_used_or_replaced(tmp_path):
    source, engine = save_perception(tmp_path / 'net.onnx'), tmp_path / 'net.engine'
    timing = tmp_path / 'net.engine.timing'
    build_here(source, engine)
    fresh = timing.read_bytes()
    timing.write_bytes(b'of another kind')
    build_here(source, engine)
    assert timing.read_bytes() == fresh


@pytest.mark.parametrize(
    ('accepted', 'tried'),
    [({b'mine', b''}, [b'mine']), ({b''}, [b'mine', b'']), (set(), [b'mine', b''])],
)
def test_timings_of_another_gpu_are_left_out(accepted, tried):
    class Config:
        def __init__(self):
            self.contents = []

        def create_timing_cache(self, serialized_timing_cache):
            self.contents.append(serialized_timing_cache)
            return serialized_timing_cache

        def set_timing_cache(self, cache, ignore_mismatch):
            return not ignore_mismatch and cache in accepted

    config = Config()
    found = engine_build._set_timing_cache(config, b'mine')
    assert config.contents == tried and found == (tried[-1] if accepted else None)


def test_without_a_gpu_a_build_says_so(tmp_path):
    source = save_perception(tmp_path / 'net.onnx')
    with pytest.raises(EngineError, match='needs an NVIDIA GPU'):
        build(source, tmp_path / 'a/b/net.engine', trt=object(), cudart=standins.Cuda(None))
    assert list(tmp_path.iterdir()) == [source]


def test_an_output_that_cannot_be_is_told_before_the_build(tmp_path):
    source = save_perception(tmp_path / 'net.onnx')
    (tmp_path / 'folder.engine').mkdir()
    for name, message in (
        ('net.plan', 'must end in .engine'),
        ('net.onnx/net.engine', "net.onnx' is a file"),
        ('folder.engine', "folder.engine' is a folder; give a file"),
    ):
        with pytest.raises((EngineError, OSError), match=message):
            build(source, tmp_path / name, trt=object(), cudart=standins.Cuda())


def test_progress_comes_by_the_clock(repository, capsys, monkeypatch):
    monkeypatch.setattr(engine_build, 'HEARTBEAT', 0.01)
    model = onnx.load(repository / 'models' / 'perception.onnx')
    plan, timing = engine_build.serialize(model, real_tensorrt(), None, threading.Event())
    assert plan and not timing
    lines = capsys.readouterr().err.splitlines()
    assert all(re.match(r' *\d+ s: \w', line) for line in lines)
    assert any(re.search(r'\w \d+/\d+, ', line) for line in lines)


def test_a_stop_reaches_tensorrt():
    trt, stop = real_tensorrt(), threading.Event()
    with engine_build._progress(trt, stop) as monitor:
        assert isinstance(monitor, trt.IProgressMonitor)
        monitor.phase_start('whole', None, 2)
        assert monitor.step_complete('whole', 0)
        stop.set()
        assert not monitor.step_complete('whole', 1)
        monitor.phase_finish('whole')


@pytest.fixture
def builder(machine, tmp_path, monkeypatch):
    """This machine with a builder, too, which does what files in a folder say."""
    folder = tmp_path / 'machine'
    folder.mkdir()
    monkeypatch.setenv(tensorrt_machine.FOLDER, str(folder))
    monkeypatch.setitem(sys.modules, 'tensorrt', tensorrt_machine.TensorRt(machine))
    return folder


def test_the_command(tmp_path, images, builder, capsys):
    source = save_perception(tmp_path / 'net.onnx')
    assert build_engine.main([str(source)]) == 0
    assert re.search(r'wrote .*net.engine \(\d+.\d MB, fp32\)', capsys.readouterr().out)
    engine = load_engine(source)
    assert engine.backend == 'tensorrt'
    expected = OnnxRuntimeEngine(source, read_contract(source), 1).infer({'image': images[0]})
    np.testing.assert_array_equal(engine.infer({'image': images[0]})['labels'], expected['labels'])
    engine.close()
    (builder / 'fail').touch()
    before = source.with_suffix('.engine').read_bytes()
    assert build_engine.main([str(source)]) == 1
    assert 'cannot build the model: out of memory' in capsys.readouterr().err
    assert source.with_suffix('.engine').read_bytes() == before


def test_a_build_without_a_timing_cache(tmp_path, builder, monkeypatch):
    """TensorRT refuses even an empty one."""
    monkeypatch.setattr(
        tensorrt_machine.IBuilderConfig,
        'set_timing_cache',
        lambda self, cache, ignore_mismatch: False,
    )
    source = save_perception(tmp_path / 'net.onnx')
    assert build_engine.main([str(source)]) == 0
    assert load_engine(source).backend == 'tensorrt'
    assert not (tmp_path / 'net.engine.timing').exists()


def test_what_the_parser_rejects_is_named(tmp_path):
    model = onnx.load(save_perception(tmp_path / 'net.onnx'))
    next(node for node in model.graph.node if node.op_type == 'Cast').op_type = 'Floor'
    with pytest.raises(EngineError, match='cannot read the model: .*(Floor|UINT8)'):
        engine_build.serialize(model, real_tensorrt(), None, threading.Event())


def test_a_builder_that_cannot_start_says_why(tmp_path, builder, capsys, monkeypatch):
    def make(self, logger):
        logger.log(tensorrt_machine.TensorRt.ILogger.Severity.ERROR, 'no memory for a start')
        raise TypeError('pybind11::init(): factory function returned nullptr')

    monkeypatch.setattr(tensorrt_machine.Builder, '__init__', make)
    source = save_perception(tmp_path / 'net.onnx')
    assert build_engine.main([str(source)]) == 1
    assert 'TensorRT 10.3.0 cannot start: no memory for a start' in capsys.readouterr().err
    assert not source.with_suffix('.engine').exists()


def test_a_wrong_call_of_tensorrt_is_no_missing_object():
    with pytest.raises(TypeError, match='incompatible constructor arguments'):
        tensorrt_engine.construct(real_tensorrt().Runtime, 'no logger')


def relabelled(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def rename(model):
    model.graph.node[1].op_type = 'Unique'


def add_domain(model):
    model.graph.node[1].domain = 'com.microsoft'


def new_opset(model):
    model.opset_import[0].version = 23


def image_into_reduction(model):
    model.graph.node[1].input[0] = 'image'


def smooth_resize(model):
    model.graph.node.add(
        op_type='Resize', name='shrink', input=['real'], output=['small']
    ).attribute.append(helper.make_attribute('antialias', 1))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (rename, 'no operator Unique; export'),
        (add_domain, 'no operator com.microsoft.ReduceMean'),
        (smooth_resize, r"no Resize with antialias 1 \('shrink'\)"),
        (new_opset, 'opset 9 to 20, the model has 23; .*opset 18'),
        (image_into_reduction, 'bytes into Cast only, but ReduceMean .*cast it first'),
    ],
)
def test_what_tensorrt_10_3_cannot_read_is_refused(tmp_path, capsys, change, message):
    path = save_perception(tmp_path / 'net.onnx')
    relabelled(path, change)
    for options in ([], ['--check'], ['--precision', 'fp16']):
        assert build_engine.main([str(path), *options]) == 1
        assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == [path]


def test_the_check_command(tmp_path, capsys, monkeypatch):
    real_tensorrt()
    path = save_pose(tmp_path / 'net.onnx')
    assert build_engine.main([str(path), '--check', '--precision', 'fp16']) == 0
    assert '(fp16): read and built by TensorRT-RTX' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]
    assert build_engine.main([str(tmp_path / 'no.onnx'), '--check']) == 1
    assert 'no.onnx' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'tensorrt_rtx', None)
    assert build_engine.main([str(path), '--check']) == 1
    assert 'pip install tensorrt-rtx-cu13' in capsys.readouterr().err


def test_an_interrupted_command(tmp_path, repository):
    """Ctrl-C while TensorRT works: the command says so and leaves nothing."""
    real_tensorrt()
    process = subprocess.Popen(
        [sys.executable, '-c', INTERRUPTED, repository / 'models' / 'perception.onnx'],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130 and 'the build was stopped; nothing was written' in printed


INTERRUPTED = """
import signal, sys
from depth_ros.commands import build_engine
from depth_ros.deploy import build as engine_build
Progress = engine_build._progress

def interrupt(trt, stop):
    signal.raise_signal(signal.SIGINT)
    return Progress(trt, stop)

engine_build._progress = interrupt
sys.exit(build_engine.main([sys.argv[1], '--check']))
"""


# Half precision


def agree(source, inputs):
    """Compare a model in fp16 with fp32, both by ONNX Runtime; returns the outputs by name."""
    model = onnx.load(source)
    values = [
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, inputs)
        for m in (model, to_fp16(model))
    ]
    return {o.name: pair for o, *pair in zip(model.graph.output, *values, strict=True)}


def smooth_images(contract, seed=0):
    """Images of soft blobs at network size, by input name."""
    random = np.random.default_rng(seed)
    return {
        name: cv2.resize(
            random.integers(0, 256, (6, 20, 3), np.uint8),
            (contract.input_width, contract.input_height),
            interpolation=cv2.INTER_CUBIC,
        )[None]
        for name in contract.inputs
    }


def check_fp16(source):
    for name, (full, half) in agree(source, smooth_images(read_contract(source))).items():
        assert half.dtype == full.dtype and half.shape == full.shape
        if name == 'depth':
            assert np.mean(np.abs(half - full) / full) < 1e-3
        elif name == 'labels':
            assert np.mean(half == full) > 0.97
        else:
            np.testing.assert_allclose(half, full, atol=0.01 * np.abs(full).max())


def test_what_is_around_the_network_stays_in_fp32():
    """Factors that fp16 has not, 1e-10 and its inverse, before and after a convolution."""
    names = ['image', 'small', 'whole', 'convolved', 'tiny', 'result']
    factors = {'down': 1e-10, 'up': 1e10}
    steps = zip(names, names[1:], ['down', 'up', 'kernel', 'down', 'up'], strict=False)
    nodes = [
        helper.make_node('Conv' if factor == 'kernel' else 'Mul', [source, factor], [target])
        for source, target, factor in steps
    ]
    tensors = [numpy_helper.from_array(np.float32(v), n) for n, v in factors.items()]
    tensors.append(numpy_helper.from_array(np.full((1, 1, 1, 1), 0.5, np.float32), 'kernel'))
    ends = [
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (1, 1, 2, 2))]
        for n in ('image', 'result')
    ]
    model = helper.make_model(
        helper.make_graph(nodes, 'net', *ends, tensors),
        ir_version=8,
        opset_imports=[helper.make_opsetid('', 18)],
    )
    half = to_fp16(model)
    assert {i.name: i.data_type for i in half.graph.initializer} == {
        'down': onnx.TensorProto.FLOAT,
        'up': onnx.TensorProto.FLOAT,
        'kernel_fp16': onnx.TensorProto.FLOAT16,
    }
    image = np.full((1, 1, 2, 2), 3, np.float32)
    (found,) = onnxruntime.InferenceSession(half.SerializeToString()).run(None, {'image': image})
    np.testing.assert_allclose(found, image / 2, rtol=1e-3)


def test_a_network_that_ends_with_its_weights_gives_fp32():
    nodes = [helper.make_node('Conv', ['image', 'kernel'], ['result'])]
    kernel = numpy_helper.from_array(np.full((1, 1, 1, 1), 0.5, np.float32), 'kernel')
    ends = [
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (1, 1, 2, 2))]
        for n in ('image', 'result')
    ]
    half = to_fp16(
        helper.make_model(
            helper.make_graph(nodes, 'net', *ends, [kernel]),
            ir_version=8,
            opset_imports=[helper.make_opsetid('', 18)],
        )
    )
    (found,) = onnxruntime.InferenceSession(half.SerializeToString()).run(
        None, {'image': np.full((1, 1, 2, 2), 3, np.float32)}
    )
    assert found.dtype == np.float32 and (found == 1.5).all()


SHIPPED = ('perception.onnx', 'pose.onnx')


@pytest.mark.parametrize('name', SHIPPED)
def test_fp16_agrees_with_fp32(repository, name):
    source = repository / 'models' / name
    check_fp16(source)
    sizes = [model.ByteSize() for model in (onnx.load(source), to_fp16(onnx.load(source)))]
    assert sizes[1] < 0.55 * sizes[0]


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_models_are_built(repository, name, precision):
    check_built(repository / 'models' / name, precision)


def configurations():
    """The training configurations by name; those with equal graphs together, as the first."""
    decisive = ('width', 'height', 'network', 'encoder', 'semantics', 'attention', 'pose_network')
    equal = {}
    for path in sorted((Path(__file__).parents[2] / 'train/configs').glob('*.yaml')):
        settings = yaml.safe_load(path.read_text())
        equal.setdefault(tuple(settings.get(name) for name in decisive), []).append(path)
    return [
        pytest.param(paths[0], id=' and '.join(path.stem for path in paths))
        for paths in equal.values()
    ]


@pytest.fixture(scope='session', params=configurations())
def exported(request, tmp_path_factory):
    """The untrained networks of a training configuration: in torch, and the folder of their ONNX
    files."""
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from train.training.config import Config
    from train.training.system import System

    torch.manual_seed(0)
    # The odometry node has two images.
    config = Config(**{**yaml.safe_load(request.param.read_text()), 'views': 2})
    system = System(config, fresh=False).eval()
    for module in system.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a ResNet's last ones begin as zeros
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    folder = tmp_path_factory.mktemp('exported')
    export_networks(system, folder, config.semantics and config.network != 'dispnet')
    return system, folder


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_is_built(exported, name, precision):
    check_built(exported[1] / name, precision)


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """A folder of soft images to calibrate int8 with."""
    folder = tmp_path_factory.mktemp('photos')
    for number in range(6):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 20, 3), np.uint8)
        cv2.imwrite(
            str(folder / f'{number}.png'),
            cv2.resize(coarse, (640, 192), interpolation=cv2.INTER_CUBIC),
        )
    return folder


@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_is_built_in_int8(exported, photos, name):
    """Whatever it says: what int8 costs untrained networks means nothing."""
    anything = Bounds(
        depth_error=np.inf,
        invalid=1,
        label_agreement=0,
        translation_error=np.inf,
        rotation_error=np.inf,
    )
    model = quantize(
        exported[1] / name,
        photos,
        runtime='tensorrt',
        bounds=anything,
        calibration_images=2,
        held_out_images=2,
    )
    check_plan(model)


def test_every_configuration_computes_what_torch_does(exported):
    import torch

    from train.commands.export import DeployedPerception, DeployedPose

    system, folder = exported
    for name, net in (
        ('perception.onnx', DeployedPerception(system.perception, 1.0)),
        ('pose.onnx', DeployedPose(system.pose, 1.0)),
    ):
        contract = read_contract(folder / name)
        inputs = smooth_images(contract)
        with torch.inference_mode():
            expected = net.eval()(*(torch.from_numpy(inputs[n]) for n in contract.inputs))
        if name == 'pose.onnx':
            expected = (expected,)
        found = OnnxRuntimeEngine(folder / name, contract, 2).infer(inputs)
        for output, value in zip(contract.outputs, expected, strict=True):
            if output == 'labels':  # ties may fall either way
                assert np.mean(found[output] == value.numpy()) > 0.999
            else:
                np.testing.assert_allclose(found[output], value, rtol=1e-4, atol=1e-7)
                assert np.ptp(found[output]) > 1e-3 * np.abs(found[output]).max()


def test_every_configuration_agrees_in_fp16(exported):
    for name in SHIPPED:
        check_fp16(exported[1] / name)


def test_nothing_is_exported_that_the_outputs_do_not_need(exported):
    for name in SHIPPED:
        assert unneeded(onnx.load(exported[1] / name)) == []


# On a GPU: pytest -m gpu


@pytest.mark.gpu
@pytest.mark.parametrize('precision', [*PRECISIONS, 'int8'])
@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_models_on_the_gpu(gpu, repository, tmp_path, name, precision):
    source = tmp_path / name
    source.write_bytes((repository / 'models' / name).read_bytes())
    if precision == 'int8':  # compared with the same graph on the CPU
        onnx.save(quantize(source, repository / 'demo/street', runtime='tensorrt'), source)
    check_on_the_gpu(source, precision, gpu)


@pytest.mark.gpu
@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_on_the_gpu(gpu, exported, name, precision):
    check_on_the_gpu(exported[1] / name, precision, gpu)


def check_on_the_gpu(source, precision, gpu):
    """Build, run, and compare with ONNX Runtime."""
    assert build_engine.main([str(source), '--precision', precision]) == 0
    engine, contract = load_engine(source), read_contract(source)
    assert engine.backend == 'tensorrt'
    assert read_record(source.with_suffix('.engine')).gpu == gpu
    assert engine._graph is not None, 'no CUDA graph'
    reference = OnnxRuntimeEngine(source, contract, 2)
    # Where int8 rounds the other way, it differs by a whole step.
    tolerance, same = {'fp32': (1e-4, 0.98), 'fp16': (2e-3, 0.98), 'int8': (0.02, 0.95)}[precision]
    for seed in range(5):  # other images each time: no output may be an earlier one's
        inputs = smooth_images(contract, seed)
        expected, found = reference.infer(inputs), engine.infer(inputs)
        for output in contract.outputs:
            if output == 'labels':
                assert np.mean(found[output] == expected[output]) > same
            else:
                error = np.abs(found[output] - expected[output])
                assert error.mean() < tolerance * np.abs(expected[output]).mean()
    engine.close()


@pytest.mark.gpu
@pytest.mark.parametrize('mapped', [False, True])
def test_memory_is_given_back_on_the_gpu(gpu, tmp_path, images, mapped):
    cudart = tensorrt_engine.cuda_module()
    source = save_perception(tmp_path / 'net.onnx')
    path = source.with_suffix('.engine')
    build(source, path)

    def free() -> int:
        return cudart.cudaMemGetInfo()[1]

    TensorRtEngine(path, mapped=mapped).close()  # libraries stay loaded
    before = free()
    for _ in range(20):
        engine = TensorRtEngine(path, mapped=mapped)
        np.testing.assert_allclose(
            engine.infer({'image': images[0]})['depth'], row_depth(), rtol=1e-6
        )
        engine.close()
    assert before - free() < 20 * 2**20

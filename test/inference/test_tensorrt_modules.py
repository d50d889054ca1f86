"""What our code uses of TensorRT and CUDA, in the real modules, which the stand-ins are like."""

import ast
import inspect
import re
from argparse import ArgumentParser
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from support import tensorrt_machine
from support import tensorrt_standins as standins
from support.tensorrt_builds import (
    real_parameters,
    real_tensorrt,
)

from depth_ros.inference.engine import EngineError
from depth_ros.inference.runtimes import tensorrt as tensorrt_engine
from depth_ros.inference.runtimes.tensorrt import find_gpu

pytestmark = pytest.mark.slow  # NVIDIA's modules are loaded


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

"""bench_engine: every runtime in a process of its own; what is told of time is only its order."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import onnx_models, tensorrt_machine
from support import tensorrt_standins as standins
from support.tensorrt_builds import engine_file, real_parameters, real_tensorrt

from depth_ros.commands import bench_engine
from depth_ros.deploy import bench as engine_bench
from depth_ros.deploy.bench import bench, measure
from depth_ros.deploy.layers import Effort, Layer, _layers, measure_layers
from depth_ros.inference.contract import read_contract, write_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.engine_file import engine_output, record_path, shell_command
from depth_ros.inference.loader import installed_backends
from depth_ros.inference.runtimes.tensorrt import check_machine
from depth_ros.share import share_path

QUICK = Effort(threads=1, runs=4, warmup=2)
OPTIONS = ('--threads', '1', '--runs', '4', '--warmup', '2')


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    onnx_models.save_perception(folder / 'perception.onnx')
    onnx_models.save_pose(folder / 'pose.onnx')
    return folder


def run(*arguments):
    return bench_engine.main([str(a) for a in arguments])


def tensorrt_problem():
    try:
        check_machine()
    except EngineError as error:
        return str(error)
    return ''


@pytest.mark.slow
def test_every_model_with_every_runtime(models, tmp_path, capsys):
    files = [models / 'perception.onnx', models / 'pose.onnx']
    assert run(*files, *OPTIONS, '--json', tmp_path / 'found.json') == 0
    found = json.loads((tmp_path / 'found.json').read_text())
    assert (found['threads'], found['runs'], found['warmup']) == (1, 4, 2)
    assert [(row['path'], row['backend']) for row in found['measured']] == [
        (str(file), backend) for file in files for backend in installed_backends()
    ]
    for row in found['measured']:
        assert 0 < row['p50_ms'] <= row['p90_ms'] <= row['p99_ms'] <= row['max_ms']
        assert 1e3 / row['max_ms'] <= row['per_second']
        assert row['load_s'] > 0 and row['cpu_ms'] > 0 and row['gpu_mb'] is None
        assert 10 < row['memory_mb'] < 1000 and 0 <= row['model_mb'] < row['memory_mb']
        assert row['file_mb'] == pytest.approx(Path(row['path']).stat().st_size / 1e6)
        assert (row['width'], row['height'], row['layers']) == (64, 48, [])
    out = capsys.readouterr().out
    for file in files:
        for backend in installed_backends():
            (line,) = re.findall(rf'^{file.name} 64x48 +{backend} +(.*)$', out, re.MULTILINE)
            assert len(line.split()) == 10  # no GPU
    command = shell_command('build_engine', files[0])
    reason = tensorrt_problem() or f"'{files[0]}' has no engine; build it: {command}"
    assert f'Not measured: tensorrt: {reason}' in out
    assert out.count('Not measured') == (1 if tensorrt_problem() else 2)


@pytest.mark.slow
def test_without_a_driver_the_cpu_is_measured(models, tmp_path):
    (tmp_path / 'nodriver').touch()
    done = subprocess.run(
        [sys.executable, '-m', 'depth_ros.commands.bench_engine', models / 'pose.onnx', *OPTIONS],
        env={**os.environ, **tensorrt_machine.environment(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for backend in installed_backends():
        assert re.search(f'^pose.onnx 64x48 +{backend}', done.stdout, re.MULTILINE)
    assert (
        'Not measured: tensorrt: TensorRT needs an NVIDIA GPU and its driver, but '
        'cudaGetDeviceCount says: Failed to dlopen libcuda.so.1'
    ) in done.stdout


@pytest.mark.slow
def test_a_network_that_resizes_says_what_images_it_takes(models, tmp_path, capsys):
    """Else nothing in the table tells it from the variant for which the node resizes."""
    model = onnx.load(models / 'pose.onnx')
    for value in model.graph.input:
        height, width = value.type.tensor_type.shape.dim[1:3]
        height.dim_value, width.dim_value = 96, 128
    write_contract(model, replace(read_contract(models / 'pose.onnx'), image_size=(128, 96)))
    onnx.save(model, tmp_path / 'whole.onnx')
    assert (
        run(
            models / 'pose.onnx',
            tmp_path / 'whole.onnx',
            *OPTIONS,
            '--json',
            tmp_path / 'found.json',
        )
        == 0
    )
    out = capsys.readouterr().out
    assert re.search('^whole.onnx 64x48 of 128x96 +', out, re.MULTILINE)
    assert re.search(f'^pose.onnx 64x48 +{installed_backends()[0]}', out, re.MULTILINE)
    rows = json.loads((tmp_path / 'found.json').read_text())['measured']
    assert {Path(row['path']).name: row['image_size'] for row in rows} == {
        'pose.onnx': None,
        'whole.onnx': [128, 96],
    }


@pytest.mark.slow
def test_files_of_one_name_are_told_apart(models, tmp_path, capsys):
    other = tmp_path / 'pose.onnx'
    other.write_bytes((models / 'pose.onnx').read_bytes())
    assert run(models / 'pose.onnx', other, *OPTIONS) == 0
    out = capsys.readouterr().out
    for file in (models / 'pose.onnx', other):
        assert out.count(f'\n{file} 64x48') == len(installed_backends())


@pytest.mark.slow
def test_memory_is_each_models_own(models, tmp_path):
    """A large model before it does not make a small one look large."""
    onnx_models.save_perception(tmp_path / 'large.onnx', width=2048, height=2048)
    image_mb = 2048**2 * 3 * 4 / 1e6  # as float32
    measured, _ = bench([tmp_path / 'large.onnx', models / 'perception.onnx'], QUICK, bar=False)
    count = len(installed_backends())
    for big, small in zip(measured[:count], measured[count:], strict=True):
        assert big.model_mb - small.model_mb > image_mb
        assert big.memory_mb - small.memory_mb > image_mb


@pytest.mark.parametrize('backend', installed_backends())
def test_layers(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    model = share_path('models/pose.onnx')
    layers = measure_layers(model, backend, QUICK)
    kinds = [layer.kind for layer in layers]
    assert (
        kinds.count({'onnxruntime': 'Conv', 'openvino': 'Convolution'}[backend])
        == sum(node.op_type == 'Conv' for node in onnx.load(model).graph.node)
        > 0
    )
    assert len({layer.name for layer in layers}) == len(layers)
    assert all(layer.ms >= 0 for layer in layers) and sum(layer.ms for layer in layers) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_slowest_layers_are_listed(models, tmp_path, capsys):
    file = models / 'pose.onnx'
    assert run(file, *OPTIONS, '--profile', 2, '--json', tmp_path / 'found.json') == 0
    out = capsys.readouterr().out
    for row in json.loads((tmp_path / 'found.json').read_text())['measured']:
        layers = [Layer(**layer) for layer in row['layers']]
        assert f'with {row["backend"]}: {len(layers)} layers' in out
        slowest = sorted(layers, key=lambda layer: -layer.ms)
        assert len(layers) > 2 and f'{slowest[0].kind:20} {slowest[0].name}' in out
    assert len(re.findall(r'^ +\d+\.\d+ ms +\d+\.\d% ', out, re.MULTILINE)) == 2 * len(
        installed_backends()
    )


def test_the_first_runs_do_not_count():
    times = {'a': [100.0, 1.0, 3.0], 'b': [50.0, 0.5, 0.5]}
    assert _layers(times, {'a': 'Conv'}, 2) == (
        Layer(name='a', kind='Conv', ms=2.0),
        Layer(name='b', kind='', ms=0.5),
    )


# TensorRT, stood in for ---------------------------------------------------------------------------


class ProfiledContext(standins.IExecutionContext):
    """Tells its profiler of two layers each time it computes."""

    profiler = None

    def execute_async_v3(self, stream_handle):
        if self.profiler is not None:
            self._cuda.calls.append('profiled')
            for name in ('first', 'second'):
                self.profiler.report_layer_time(name, 0.25)
        return super().execute_async_v3(stream_handle)


class Profiler:
    """`IProfiler`."""

    def report_layer_time(self, layer_name, ms):
        raise NotImplementedError


def test_tensorrt_runs_the_engine_of_a_model(models, tmp_path, machine):  # noqa: F811
    source = tmp_path / 'net.onnx'
    source.write_bytes((models / 'perception.onnx').read_bytes())
    with pytest.raises(EngineError, match='has no engine; build it: .*build_engine .*net.onnx'):
        measure(source, 'tensorrt', QUICK)
    engine = engine_file(source)
    for file in (source, engine):
        machine.calls.clear()
        found = measure(file, 'tensorrt', QUICK)
        assert (found.backend, found.name) == ('tensorrt', 'tiny_perception')
        assert found.file_mb == engine.stat().st_size / 1e6
        shapes = read_contract(source).tensor_shapes().values()
        assert (
            found.gpu_mb
            == sum(np.prod(shape) * np.dtype(kind).itemsize for kind, shape in shapes) / 1e6
        )
        assert machine.calls.count('cudaGraphLaunch') == QUICK.warmup + QUICK.runs
        assert machine.held == {}


def test_the_file_that_is_loaded_is_measured(models, tmp_path, machine, monkeypatch):  # noqa: F811
    """Of a model's two engines the first that fits; of an engine file that one."""
    monkeypatch.setattr(standins, 'IExecutionContext', ProfiledContext)
    monkeypatch.setattr(standins.TensorRt, 'IProfiler', Profiler, raising=False)
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'ros'))
    monkeypatch.setattr(os, 'access', lambda *_: False)
    source = tmp_path / 'net.onnx'
    source.write_bytes((models / 'pose.onnx').read_bytes())
    second, first = engine_file(source), engine_output(source)
    first.parent.mkdir(parents=True)
    shutil.copy(record_path(second), record_path(first))
    first.write_bytes(b'damaged')
    larger = onnx.load(source)
    larger.doc_string = 'larger'
    for file, used in ((source, second), (second, second), (source, first), (second, second)):
        if used == first:
            first.write_bytes(larger.SerializeToString())
        assert measure(file, 'tensorrt', QUICK).file_mb == used.stat().st_size / 1e6
        assert len(measure_layers(file, 'tensorrt', QUICK)) == 2
    assert first.stat().st_size != second.stat().st_size and machine.held == {}


def test_memory_of_the_gpu_that_others_release_is_none_of_the_engines(
    models,
    tmp_path,
    machine,  # noqa: F811
    monkeypatch,
):
    free = iter((2**20, 2**21))
    monkeypatch.setattr(machine, 'cudaMemGetInfo', lambda: (0, next(free), 2**30))
    source = tmp_path / 'net.onnx'
    source.write_bytes((models / 'pose.onnx').read_bytes())
    engine_file(source)
    assert measure(source, 'tensorrt', QUICK).gpu_mb == 0


def test_tensorrt_layers(models, tmp_path, machine, monkeypatch):  # noqa: F811
    monkeypatch.setattr(standins, 'IExecutionContext', ProfiledContext)
    monkeypatch.setattr(standins.TensorRt, 'IProfiler', Profiler, raising=False)
    source = tmp_path / 'net.onnx'
    source.write_bytes((models / 'pose.onnx').read_bytes())
    engine_file(source)
    assert measure_layers(source, 'tensorrt', QUICK) == (
        Layer(name='first', kind='', ms=0.25),
        Layer(name='second', kind='', ms=0.25),
    )
    assert machine.calls.count('profiled') == QUICK.warmup + QUICK.runs
    assert 'cudaGraphLaunch' not in machine.calls
    assert machine.held == {}


def test_the_profiler_is_like_the_real_one():
    trt = real_tensorrt()
    assert real_parameters(trt.IProfiler.report_layer_time) == ['layer_name', 'ms']
    for name in ('profiler', 'enqueue_emits_profile'):
        assert isinstance(getattr(trt.IExecutionContext, name), property)
    assert 'SupportsFloat' in trt.IProfiler.report_layer_time.__doc__


@pytest.mark.gpu
def test_on_the_gpu(models, tmp_path):
    from depth_ros.deploy.build import build

    if problem := tensorrt_problem():
        pytest.skip(problem)
    source = tmp_path / 'pose.onnx'
    source.write_bytes(share_path('models/pose.onnx').read_bytes())
    build(source, source.with_suffix('.engine'))
    measured, missing = bench([source], Effort(), profile=True, bar=False)
    assert missing == [] and measured[-1].backend == 'tensorrt'
    assert measured[-1].gpu_mb > 0 and len(measured[-1].layers) > 5


# What cannot be measured --------------------------------------------------------------------------


def test_a_runtime_that_dies_is_told():
    with pytest.raises(EngineError, match='was killed: the runtime has crashed'):
        engine_bench._in_process(os.abort)


@pytest.mark.slow
def test_a_killed_command_leaves_no_process(models):
    command = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'depth_ros.commands.bench_engine',
            str(models / 'pose.onnx'),
            '--runs',
            '1000000',
        ],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        children = Path(f'/proc/{command.pid}/task/{command.pid}/children')
        while len(children.read_text().split()) < 2:  # multiprocessing's own, and the measurement
            assert command.poll() is None
            time.sleep(0.05)
        command.kill()
        command.communicate(timeout=60)  # until nobody has the other end of the pipe
    except subprocess.TimeoutExpired:
        os.killpg(command.pid, signal.SIGKILL)
        raise


def test_a_runtime_that_cannot_be_imported_is_told(models, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(EngineError, match='onnxruntime is installed, but cannot be imported'):
        measure(models / 'pose.onnx', 'onnxruntime', QUICK)


def test_bad_input_is_told(models, tmp_path, capsys):
    for arguments, text in (
        ((tmp_path / 'no.onnx',), "no.onnx' does not exist"),
        ((models / 'pose.onnx', '--json', tmp_path / 'no' / 'f.json'), 'does not exist'),
        ((models / 'pose.onnx', '--json', tmp_path), 'is a folder'),
        ((tmp_path / 'no.engine',), 'nothing could be measured'),
    ):
        assert run(*arguments) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith('bench_engine: ') and text in error
    with pytest.raises(SystemExit) as stopped:
        run(models / 'pose.onnx', '--runs', 0)
    assert stopped.value.code == 2


def test_one_runtime_that_fails_does_not_stop_the_others(models, monkeypatch):
    def fail(function, path, backend, effort):
        if backend == 'onnxruntime':
            raise EngineError('of no use')
        return replace(measure(path, installed_backends()[0], effort), backend=backend)

    monkeypatch.setattr(engine_bench, '_in_process', fail)
    measured, missing = bench([models / 'pose.onnx'] * 2, QUICK, bar=False)
    assert missing == ['onnxruntime: of no use']
    assert [m.backend for m in measured] == [
        b for b in (*installed_backends(), 'tensorrt') if b != 'onnxruntime'
    ] * 2

"""Building engines: by stand-ins, and by the parser and builder of TensorRT-RTX."""

import re
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import helper
from support import tensorrt_machine
from support import tensorrt_standins as standins
from support.onnx_models import HEIGHT, WIDTH, save_perception, save_pose
from support.tensorrt_builds import (
    GPU,
    RTX_WARNINGS,
    build_here,
    real_tensorrt,
)

from depth_ros.commands import build_engine
from depth_ros.deploy import build as engine_build
from depth_ros.deploy.build import build
from depth_ros.files import file_hash
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.engine_file import PRECISIONS, EngineRecord, read_record
from depth_ros.inference.loader import load_engine
from depth_ros.inference.runtimes import tensorrt as tensorrt_engine
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine


@pytest.fixture
def images():
    """Two different images."""
    return np.random.default_rng(0).integers(0, 256, (2, 1, HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_progress_comes_by_the_clock(repository, capsys, monkeypatch):
    monkeypatch.setattr(engine_build, 'HEARTBEAT', 0.01)
    model = onnx.load(repository / 'models' / 'perception.onnx')
    plan, timing = engine_build.serialize(model, real_tensorrt(), None, threading.Event())
    assert plan and not timing
    lines = capsys.readouterr().err.splitlines()
    assert all(re.match(r' *\d+ s: \w', line) for line in lines)
    assert any(re.search(r'\w \d+/\d+, ', line) for line in lines)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_a_node_starts_needs_only_what_a_robot_has():
    code = "import sys, depth_ros.deploy.build; print(*sorted(m for m in sys.modules if '.' in m))"
    found = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    loaded = found.stdout.split()
    assert 'depth_ros.deploy.build' in loaded, found.stderr
    rooms = (
        'depth_ros.bags',
        'depth_ros.evaluation',
        'depth_ros.commands',
        'depth_ros.ros',
        'tqdm',
    )
    assert [module for module in loaded if module.startswith(rooms)] == []


def test_a_build_that_a_node_starts(tmp_path, builder, capsys):
    source = save_perception(tmp_path / 'net.onnx')
    output = tmp_path / 'other.engine'
    assert engine_build.main([str(source), 'fp16', str(output)]) == 0
    assert f'wrote {output}' in capsys.readouterr().out
    assert read_record(output).precision == 'fp16'
    assert engine_build.main([str(tmp_path / 'no.onnx'), 'fp16', str(output)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith('build_engine: ')

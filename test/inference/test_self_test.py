"""The comparison with the CPU that an engine must pass before a node relies on it."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import tensorrt_machine
from support.onnx_models import save_pose
from support.tensorrt_builds import real_parameters, real_tensorrt

from depth_ros.inference import self_test
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import Engine, EngineError, UnfitEngineError
from depth_ros.inference.engine_file import (
    PRECISIONS,
    engine_files,
    engine_output,
    record_path,
)
from depth_ros.inference.loader import load_built_engine, load_engine
from depth_ros.inference.self_test import BOUNDS, check_engine, load_checked, stored_inputs


def test_engines_of_models_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'ros'))
    sources = [
        save_pose(tmp_path / name / 'pose.onnx')
        for name in ('a', 'b')
        if (tmp_path / name).mkdir() is None
    ]
    assert engine_output(sources[0]) == sources[0].with_suffix('.engine')
    monkeypatch.setattr('os.access', lambda path, mode: False)
    places = [engine_output(source) for source in sources]
    assert len(set(places)) == 2
    assert all(place.parent == tmp_path / 'ros' / 'depth_ros' for place in places)
    assert engine_files(sources[0]) == []
    with pytest.raises(UnfitEngineError, match='no engine'):
        load_built_engine(sources[0], 1)
    # What came with the installation is there to be used, after what was built here.
    places[0].parent.mkdir(parents=True)
    for file in (sources[0].with_suffix('.engine'), places[0]):
        file.touch()
    assert engine_files(sources[0]) == [places[0], sources[0].with_suffix('.engine')]
    monkeypatch.delenv('ROS_HOME')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert engine_output(sources[0]).parent == tmp_path / 'home' / '.ros' / 'depth_ros'


class Played(Engine):
    """Gives outputs that were computed before, one call after another."""

    def __init__(self, contract, outputs, change=None):
        super().__init__(Path('played.onnx'), contract, 1)
        self._outputs, self._change = enumerate(outputs), change

    def _run(self, inputs):
        frame, outputs = next(self._outputs)
        outputs = {name: value.copy() for name, value in outputs.items()}
        if self._change is not None:
            self._change(outputs, frame)
        return outputs

    def close(self):
        pass


@pytest.fixture(scope='module')
def computed(repository):
    """Contract and outputs of the shipped models for the stored pictures, by file name."""
    found = {}
    for name in ('perception.onnx', 'pose.onnx'):
        engine = load_engine(repository / 'models' / name, 'onnxruntime')
        found[name] = engine.contract, [engine.infer(i) for i in stored_inputs(engine.contract)]
        engine.close()
    return found


def scale(outputs, frame):
    outputs['depth'] *= 1.015


def jump(outputs, frame):
    outputs['depth'] *= 1.015 if frame % 2 else 0.985


def no_number(outputs, frame):
    outputs['depth'][:4] = np.nan


def no_number_at_all(outputs, frame):
    outputs['depth'][:] = np.nan


def other_labels(outputs, frame):
    outputs['labels'][:, :4] += 1


def beyond(factor, value):
    """Depth over 40 is another time as large, and in the top rows something else."""

    def change(outputs, frame):
        depth = outputs['depth']
        depth[depth > 40] *= factor
        depth[:4][depth[:4] > 40] = value

    return change


def inside(outputs, frame):
    outputs['depth'][outputs['depth'] > 40] = 30


def drift(outputs, frame):
    outputs['depth'] *= 1 + 0.002 * (frame == 4)


def turned(outputs, frame):
    outputs['pose'][1] += 0.005


def far(outputs, frame):
    outputs['pose'][5] *= 1.03


@pytest.mark.parametrize(
    ('model', 'change', 'passes', 'problem'),
    [
        ('perception.onnx', scale, ('fp16', 'int8'), 'relative error of depth up to 1.5 %'),
        ('perception.onnx', jump, ('int8',), 'change of scale from frame to frame up to 3'),
        ('perception.onnx', no_number, (), 'depth in one engine only'),
        ('perception.onnx', no_number_at_all, (), 'no pixel has a depth'),
        ('perception.onnx', other_labels, ('fp16', 'int8'), 'of another class up to'),
        ('perception.onnx', drift, (), 'the same picture comes again 0.2 %, at most 0.1 %'),
        ('pose.onnx', turned, ('int8',), 'error of rotation up to 0.28'),
        ('pose.onnx', far, ('int8',), 'error of translation up to'),
    ],
)
def test_what_is_wrong_depends_on_the_precision(computed, model, change, passes, problem):
    contract, outputs = computed[model]
    assert set(BOUNDS) >= set(PRECISIONS)
    for precision in BOUNDS:
        pair = Played(contract, outputs, change), Played(contract, outputs)
        if precision in passes:
            assert 'agrees with' in check_engine(*pair, precision)
        else:
            with pytest.raises(EngineError, match=f"{precision} engine's .* wrong: .*{problem}"):
                check_engine(*pair, precision)
    assert 'agrees with' in check_engine(
        Played(contract, outputs), Played(contract, outputs), 'fp32'
    )


@pytest.mark.parametrize('value', [np.inf, -np.inf, -1e6, np.nan])
def test_depth_beyond_the_models_range_does_not_count(computed, value):
    """Nodes publish none there, so that it may be anything; but it must be beyond for both."""
    contract, outputs = computed['perception.onnx']
    contract = replace(contract, depth_range=(contract.depth_range[0], 40.0))
    assert 0.1 < np.mean([item['depth'] > 40 for item in outputs]) < 0.9
    engine = Played(contract, outputs, beyond(3.0, value))
    assert 'agrees with' in check_engine(engine, Played(contract, outputs), 'fp32')
    with pytest.raises(EngineError, match='relative error of depth'):
        check_engine(Played(contract, outputs, inside), Played(contract, outputs), 'fp32')


def test_stored_pictures_are_of_the_models_size(repository):
    for name in ('perception.onnx', 'pose.onnx'):
        contract = read_contract(repository / 'models' / name)
        inputs = stored_inputs(contract)
        assert all(item.keys() == set(contract.inputs) for item in inputs)
        assert {image.shape for item in inputs for image in item.values()} == {
            (1, *contract.image_shape)
        }
        first = contract.inputs[0]
        np.testing.assert_array_equal(inputs[0][first], inputs[-1][first])
        kinds = {item[first].tobytes() for item in inputs}
        assert len(kinds) == len(inputs) - 1


def test_what_cannot_be_checked_runs_and_says_so(built, monkeypatch):
    source, _ = built
    path = source.with_suffix('.engine')

    def says(file):
        loaded = load_checked(file)
        loaded.engine.close()
        assert loaded.engine.backend == 'tensorrt' and not loaded.buildable
        assert loaded.unchecked == ('may be wrong' in loaded.tensorrt)
        return loaded.tensorrt

    assert 'agrees with' in says(source) and 'agrees with' in says(path)
    with monkeypatch.context() as patch:
        patch.setattr(self_test, 'installed_backends', tuple)
        assert 'no CPU runtime is installed' in says(source)
    source.unlink()
    assert re.search(f"'{path}' is not compared .*: '{source}', of which .* not there", says(path))
    record_path(path).unlink()
    with pytest.raises(UnfitEngineError, match='does not exist; build it: .*build_engine'):
        load_checked(path)


def test_mapped_memory_is_passed_on(built):
    source, cuda = built
    for mapped, expected in ((None, False), (True, True), (False, False)):
        cuda.calls.clear()
        load_engine(source, mapped=mapped).close()
        assert ('cudaHostGetDevicePointer' in cuda.calls) == expected


def test_the_builders_stand_in_is_like_the_real_one():
    trt = real_tensorrt()
    machine = tensorrt_machine
    for stand_in in (machine.Builder, machine.OnnxParser, machine.IBuilderConfig):
        real = getattr(trt, stand_in.__name__)
        for name, function in vars(stand_in).items():
            if inspect.isfunction(function) and name != '__init__':
                names = list(inspect.signature(function).parameters)[1:]
                assert real_parameters(getattr(real, name))[: len(names)] == names, name
    for enum in (machine.TensorRt.BuilderFlag, machine.TensorRt.NetworkDefinitionCreationFlag):
        assert all(hasattr(getattr(trt, enum.__name__), member.name) for member in enum)

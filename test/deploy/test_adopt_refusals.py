"""What cannot be adopted is refused with the reason; what was guessed is said."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.foreign_models import (
    HEIGHT,
    LABELS,
    METRIC,
    UNIT,
    WIDTH,
    adopt,
    foreign,
    save,
    value,
)

from depth_ros.commands import adopt_model
from depth_ros.deploy.adopt import adoption
from depth_ros.deploy.adopt.wrap import GraphBuilder
from depth_ros.inference.loader import load_engine

F, I64 = TensorProto.FLOAT, TensorProto.INT64
X = ('x', F, (1, 3, HEIGHT, WIDTH))


def constant_network(path, inputs, outputs):
    """Outputs of given shapes, that depend on the first input."""
    name = inputs[0][0]
    nodes = [helper.make_node('ReduceMean', [name], ['mean'], keepdims=0)]
    tensors = []
    for out, kind, shape in outputs:
        tensors.append(numpy_helper.from_array(np.array(shape, np.int64), f'{out}_shape'))
        nodes += [
            helper.make_node('Expand', ['mean', f'{out}_shape'], [f'{out}_real']),
            helper.make_node('Cast', [f'{out}_real'], [out], to=kind),
        ]
    return save(
        path,
        nodes,
        [value(*i) for i in inputs],
        [value(n, k, None) for n, k, _ in outputs],
        tensors,
    )


DEPTH = ('depth', F, (1, 1, HEIGHT, WIDTH))
POINTS = [
    ('points', F, (1, HEIGHT, WIDTH, 3)),
    ('normal', F, (1, HEIGHT, WIDTH, 3)),
    ('mask', F, (1, HEIGHT, WIDTH)),
    ('metric_scale', F, (1,)),
]
QUERIES = [
    ('class_queries_logits', F, (1, 10, 20)),
    ('masks_queries_logits', F, (1, 10, HEIGHT // 4, WIDTH // 4)),
]


@pytest.mark.parametrize(
    ('inputs', 'outputs', 'options', 'reason'),
    [
        ([X, ('k', F, (1, 3, 3))], [DEPTH], METRIC, r"more than images.*\['k'\].*intrinsics"),
        ([X, ('state', F, (1, 8))], [DEPTH], METRIC, 'more than images.*a state'),
        # MoGe: a number of tokens; OneFormer: a task.
        ([X, ('num_tokens', I64, ())], POINTS, METRIC, r"\['num_tokens'\].*constant in its place"),
        ([X, ('task_inputs', F, (1, 77))], QUERIES, METRIC, r"\['task_inputs'\].*constant"),
        # MoGe: a mask is no depth, and that of points has an unknown shift.
        ([X], POINTS, METRIC, "no outputs may be depth.*known up to a shift.*'points'"),
        ([X], POINTS, [*METRIC, '--task', 'depth'], 'no outputs may be depth.*up to a shift'),
        ([X], POINTS[2:], UNIT, 'depth, classes, both or neither.*--task'),
        ([('x', F, (1, 4, 3, HEIGHT, WIDTH))], [DEPTH], METRIC, '4 images at a time'),
        ([('x', F, (2, 3, HEIGHT, WIDTH))], [DEPTH], METRIC, '2 images at a time'),
        ([X, ('y', *X[1:]), ('z', *X[1:])], [DEPTH], METRIC, '3 images at a time'),
        ([X, ('y', *X[1:])], [DEPTH], ['--task', 'depth', *METRIC], 'only pose is told of two'),
        ([('x', F, (1, 1, HEIGHT, WIDTH))], [DEPTH], METRIC, 'no channels of colour'),
        ([('x', I64, (1, 3, HEIGHT, WIDTH))], [DEPTH], METRIC, 'INT64.*must be float or uint8'),
        ([X], [DEPTH], ['--output-kind', 'metric'], 'how the network wants its images'),
        ([X], [DEPTH], UNIT, 'what its depth means.*--output-kind'),
        ([X], [DEPTH], [*UNIT, '--output-kind', 'metric'], 'belongs to the camera.*--intrinsics'),
        (
            [X],
            [DEPTH],
            [*UNIT, '--output-kind', 'metric', '--intrinsics', *'0.6 0.8 0.5 0.5'.split()],
            'divided by the size',
        ),
        ([X], [DEPTH, ('other_depth', *DEPTH[1:])], METRIC, '2 outputs may be depth.*--outputs'),
        ([X], [DEPTH], [*METRIC, '--outputs', 'nothing'], r"no output is called \['nothing'\]"),
        ([X], [DEPTH], [*METRIC, '--inputs', 'nothing'], r"no input is called \['nothing'\]"),
        ([X], [DEPTH], [*METRIC, '--task', 'semantics'], 'no outputs may be semantics'),
        ([X], [DEPTH], [*METRIC, '--task', 'pose'], 'a pose needs two images'),
        ([X], [DEPTH], [*METRIC, '--depth-range', '900', '1000'], 'no depth is within 900 to 1000'),
        ([X], [('logits', F, (1, 5, HEIGHT, WIDTH))], UNIT, 'what its classes are'),
        (
            [X],
            [('logits', F, (1, 300, HEIGHT, WIDTH))],
            [*LABELS, 'cityscapes'],
            'knows 300 classes',
        ),
        (
            [X],
            [('logits', F, (1, 5, HEIGHT, WIDTH))],
            [*LABELS, 'cityscapes'],
            '5 classes, --classes names 19',
        ),
        # YOLO-seg: boxes with mask coefficients, and prototypes; DETR: queries and their masks.
        (
            [X],
            [('output0', F, (1, 116, 8400)), ('output1', F, (1, 32, 12, 16))],
            [*LABELS, 'cityscapes'],
            'instances',
        ),
        (
            [X],
            [('logits', F, (1, 100, 134)), ('masks', F, (1, 100, 12, 16))],
            [*LABELS, 'cityscapes'],
            'instances',
        ),
        ([X], QUERIES, [*LABELS, 'cityscapes'], 'instances'),
        ([X], [('scores', F, (1, 1000))], UNIT, 'no output is an image'),
        ([X], [('depth', F, (1, 28, 64))], METRIC, 'in proportion to 64x48.*exported for one size'),
        ([('x', F, (1, 6, HEIGHT, WIDTH))], [('pose', F, (1, 7))], UNIT, 'pose must be 6 numbers'),
        (
            [('x', F, (1, 6, HEIGHT, WIDTH))],
            [('a', F, (1, 3)), ('b', F, (1, 3))],
            UNIT,
            'which output is the rotation',
        ),
        (
            [('x', F, (1, 6, HEIGHT, WIDTH))],
            [('pose', F, (1, 6))],
            [*UNIT, '--output-kind', 'inverse'],
            'a pose is metric or relative',
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_refused_with_the_reason(tmp_path, picture_file, capsys, inputs, outputs, options, reason):
    import re

    source = constant_network(tmp_path / 'net.onnx', inputs, outputs)
    adopt(source, *options, image=picture_file, ok=False)
    message = capsys.readouterr().err
    assert re.search(reason, message), message
    assert message.startswith('adopt_model: ') and message.count('\n') == 1


def test_files_and_options_that_cannot_be_used(tmp_path, picture_file, capsys):
    source = foreign(tmp_path / 'net.onnx')
    (tmp_path / 'text.onnx').write_text('no network')
    (tmp_path / 'bad.yaml').write_text('{0: road, 2: car}')
    adopted = adopt(source, *METRIC, image=picture_file)
    cases = [
        (tmp_path / 'nowhere.onnx', METRIC, 'does not exist'),
        (tmp_path, METRIC, 'is a folder'),
        (tmp_path / 'text.onnx', METRIC, 'cannot be read as ONNX'),
        (adopted, METRIC, 'is a depth_ros model already'),
        (source, [*METRIC, '--image', tmp_path / 'text.onnx'], 'no picture'),
        (source, [*METRIC, '--image', tmp_path / 'nowhere.png'], 'does not exist'),
        (source, [*METRIC, '--mean', 0, 0, 0], 'go together'),
        (source, [*METRIC, '--mean', 0, 0, 0, '--std', 1, 1, 1], 'not both'),
        (
            source,
            ['--mean', 0, 0, 0, '--std', 1, 0, 1, '--output-kind', 'relative'],
            '--std positive',
        ),
        (source, [*METRIC, '--offset', 1], 'affine-inverse'),
        (source, [*METRIC, '--output-kind', 'metric', 'inverse'], 'give one of'),
        (source, [*METRIC, '--depth-range', 5, 2], "'depth_range'"),
        (source, [*LABELS, 'nothing.yaml'], 'no file'),
        (source, [*LABELS, tmp_path / 'bad.yaml'], 'names by ids from 0 on'),
        (source, [*METRIC, '--camera-info', source], 'not both'),
        (source, [*UNIT, '--camera-info', tmp_path / 'text.onnx'], 'no calibration'),
    ]
    for path, options, reason in cases:
        output = tmp_path / 'never.onnx'
        assert adopt_model.main([str(path), '--output', str(output), *map(str, options)]) == 1
        message = capsys.readouterr().err
        assert reason in message and message.count('\n') == 1, message
        assert not output.exists()
    assert adopt_model.main([str(source), '--output', str(source), *METRIC]) == 1
    assert adopt_model.main([str(source), '--output', str(tmp_path / 'x.engine'), *METRIC]) == 1
    assert sorted(p.name for p in tmp_path.glob('.*')) == []


def test_an_output_that_cannot_be_is_told_before_the_work(
    tmp_path, picture_file, capsys, monkeypatch
):
    source = foreign(tmp_path / 'net.onnx')
    (tmp_path / 'folder.onnx').mkdir()
    (tmp_path / 'locked').mkdir()
    may = os.access
    monkeypatch.setattr(
        os, 'access', lambda path, mode: Path(path) != tmp_path / 'locked' and may(path, mode)
    )
    refused = f"no permission to write to '{tmp_path / 'locked'}'"
    with monkeypatch.context() as patch:
        patch.setattr(adoption, 'adopt', None)
        for name, reason in (
            ('folder.onnx', "folder.onnx' is a folder; give a file"),
            ('net.onnx/a/x.onnx', "net.onnx' is a file; give another file"),
            ('locked/x.onnx', refused),
            ('locked/a/b/x.onnx', refused),
        ):
            output = tmp_path / name
            assert adopt_model.main([str(source), '--output', str(output), *METRIC]) == 1
            assert reason in (message := capsys.readouterr().err) and str(output) in message
    # Folders are made for a file that is there.
    output = tmp_path / 'a' / 'b' / 'x.onnx'
    command = [str(source), '--output', str(output), '--image', str(picture_file), *METRIC]
    assert adopt_model.main([*command, '--depth-range', '5', '2']) == 1
    assert not (tmp_path / 'a').exists()
    assert adopt_model.main(command) == 0 and output.exists()


def test_the_size_of_the_export_inside(tmp_path, picture_file, capsys):
    """As positions that torch's older exporter wrote for one size, beside axes that are open."""
    positions = numpy_helper.from_array(np.ones((1, 1, HEIGHT, WIDTH), np.float32))
    after = [
        helper.make_node('Constant', [], ['positions'], value=positions),
        helper.make_node('Add', ['y', 'positions'], ['out']),
    ]
    shape = ('batch', 3, 'height', 'width')
    source = foreign(tmp_path / 'net.onnx', shape=shape, after=after)
    adopt(source, *METRIC, '--size', '96x96', image=picture_file, ok=False)
    assert 'exported for one size, though the file says any' in capsys.readouterr().err
    adopt(source, *METRIC, '--size', f'{WIDTH}x{HEIGHT}', image=picture_file)


def test_numbers_that_are_none_are_refused(tmp_path, picture_file, capsys):
    after = [helper.make_node('Log', ['y'], ['out'])]  # of negative numbers, too
    source = foreign(tmp_path / 'net.onnx', bias=-0.5, after=after)
    adopt(source, *METRIC, image=picture_file, ok=False)
    assert 'depth is not finite' in capsys.readouterr().err


def test_a_wrong_result_is_not_written(tmp_path, picture_file, capsys, monkeypatch):
    """Only a mistake here could make one; this makes it."""
    monkeypatch.setattr(
        GraphBuilder,
        'resize',
        lambda self, image, shape, size, mode: self(
            'Resize', image, '', '', np.array([*shape[:2], *size[::-1]], np.int64), mode='nearest'
        ),
    )
    adopt(foreign(tmp_path / 'net.onnx', stride=2), *METRIC, image=picture_file, ok=False)
    assert 'differs from the foreign one' in capsys.readouterr().err


def test_what_was_guessed_is_said(tmp_path, picture_file, capsys):
    after = [
        helper.make_node('Hardmax', ['y'], ['h'], axis=-1),
        helper.make_node('Add', ['y', 'h'], ['out']),
    ]
    adopt(
        foreign(tmp_path / 'net.onnx', after=after),
        *UNIT,
        '--output-kind',
        'relative',
        image=picture_file,
    )
    text = capsys.readouterr().out
    for part in (
        'guessed: layout nchw',
        'guessed: task depth',
        'guessed: a training camera',
        'TensorRT 10.3 has no operator Hardmax',
        'from the foreign network',
        'wrote ',
    ):
        assert part in text, text
    engine = load_engine(tmp_path / 'net_adopted.onnx', 'onnxruntime')  # runs all the same
    engine.close()


@pytest.mark.slow
def test_the_command_explains_itself():
    result = subprocess.run(
        [sys.executable, '-m', 'depth_ros.commands.adopt_model', '--help'],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and 'affine-inverse' in result.stdout

"""Classes and motions of adopted networks, compared with numpy."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.foreign_models import (
    CLASS_WEIGHTS,
    CLASSES,
    HEIGHT,
    LABELS,
    METRIC,
    UNIT,
    WEIGHTS,
    WIDTH,
    adopt,
    enlarged,
    foreign,
    motion_network,
    raw,
    run,
    save,
    value,
)

from depth_ros.core.se3 import pose, rotation_from_vector
from depth_ros.inference.contract import read_contract


@pytest.mark.parametrize('layout', ['nchw', 'nhwc'])
def test_logits_at_a_quarter_of_the_size(tmp_path, picture, picture_file, classes_file, layout):
    after = [helper.make_node('Transpose', ['y'], ['out'], perm=[0, 2, 3, 1])]
    shape = (1, 3, HEIGHT, WIDTH) if layout == 'nchw' else (1, HEIGHT, WIDTH, 3)
    source = foreign(
        tmp_path / 'net.onnx',
        CLASS_WEIGHTS,
        stride=4,
        shape=shape,
        after=() if layout == 'nchw' else after,
    )
    path = adopt(source, *LABELS, classes_file, image=picture_file)
    scores = raw(picture, CLASS_WEIGHTS.T).reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 5).mean((1, 3))
    expected = np.stack([enlarged(scores[..., i]) for i in range(5)]).argmax(0)
    found = run(path, picture)['labels']
    assert len(np.unique(found)) > 2 and (found == expected).mean() > 0.999
    contract = read_contract(path)
    assert [c.name for c in contract.classes] == CLASSES and contract.class_id('sky') == 2
    assert len({c.color for c in contract.classes}) == 5


@pytest.mark.parametrize('kind', [TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT])
@pytest.mark.parametrize('stride', [1, 2])
def test_ids(tmp_path, picture, picture_file, classes_file, kind, stride):
    """Ids -1 to 6 of five classes, [1, 1, h, w]: those that are none are unlabelled."""
    after = [
        helper.make_node('Floor', ['y'], ['f']),
        helper.make_node('Cast', ['f'], ['out'], to=kind),
    ]
    source = foreign(
        tmp_path / 'net.onnx', WEIGHTS * 8, bias=-1.05, stride=stride, after=after, out_kind=kind
    )
    kinds = ['--output-kind', 'ids'] if kind == TensorProto.FLOAT else []
    path = adopt(source, *LABELS, classes_file, *kinds, image=picture_file)
    mean = (
        raw(picture, 8 * WEIGHTS[0], -1.05)
        .reshape(HEIGHT // stride, stride, WIDTH // stride, stride)
        .mean((1, 3))
    )
    ids = np.floor(mean).repeat(stride, 0).repeat(stride, 1)
    expected = np.where((ids >= 0) & (ids < 5), ids, 255).astype(np.uint8)
    found = run(path, picture)['labels']
    assert {0, 255} < set(np.unique(found)) and (found == expected).mean() > 0.999


def test_classes_have_the_colours_of_their_file(tmp_path, picture_file):
    source = foreign(tmp_path / 'net.onnx', CLASS_WEIGHTS[:2])
    (tmp_path / 'two.yaml').write_text(
        '- {name: floor, color: [1, 2, 3]}\n- {name: rest, color: [4, 5, 6]}\n'
    )
    path = adopt(source, *LABELS, tmp_path / 'two.yaml', image=picture_file)
    assert [(c.name, c.color) for c in read_contract(path).classes] == [
        ('floor', (1, 2, 3)),
        ('rest', (4, 5, 6)),
    ]


def test_depth_and_classes_of_one_network(tmp_path, picture, picture_file, classes_file):
    """With a confidence, and normals, that are left out."""
    weights = [
        numpy_helper.from_array(w[:, :, None, None], n)
        for n, w in (('d', WEIGHTS), ('c', CLASS_WEIGHTS), ('s', WEIGHTS * 2))
    ]
    names = {'predicted_depth': 'd', 'logits': 'c', 'confidence': 's'}
    source = save(
        tmp_path / 'net.onnx',
        [helper.make_node('Conv', ['x', w], [n]) for n, w in names.items()],
        [value('x', TensorProto.FLOAT, (1, 3, HEIGHT, WIDTH))],
        [value(n, TensorProto.FLOAT, None) for n in names],
        weights,
    )
    path = adopt(
        source,
        *METRIC,
        '--task',
        'depth',
        'semantics',
        '--classes',
        classes_file,
        image=picture_file,
    )
    found = run(path, picture)
    np.testing.assert_allclose(found['depth'], raw(picture, bias=0), rtol=1e-4)
    assert (found['labels'] == raw(picture, CLASS_WEIGHTS.T).argmax(-1)).mean() > 0.999
    # What is left out is not computed.
    assert sum(n.op_type == 'Conv' for n in onnx.load(path).graph.node) == 2


@pytest.mark.parametrize('beside', ['depth_conf', 'sky', 'mask'])
def test_depth_is_not_what_lies_beside_it(tmp_path, picture, picture_file, capsys, beside):
    """As Depth Anything 3: images of one channel, of which one is depth."""
    nodes = [
        helper.make_node('ReduceMean', ['x'], ['depth'], axes=[2], keepdims=0),
        helper.make_node('Sqrt', ['depth'], [beside]),
    ]
    images = value('x', TensorProto.FLOAT, (1, 1, 3, HEIGHT, WIDTH))
    outputs = [value(n, TensorProto.FLOAT, None) for n in (beside, 'depth')]
    path = adopt(save(tmp_path / 'net.onnx', nodes, [images], outputs), *METRIC, image=picture_file)
    assert f'left out: {beside}' in capsys.readouterr().out
    expected = picture.mean(2) / 255
    assert np.allclose(run(path, picture)['depth'], expected, atol=1e-5)
    adopt(tmp_path / 'net.onnx', *METRIC, '--outputs', beside, image=picture_file)
    assert np.allclose(run(path, picture)['depth'], np.sqrt(expected), atol=1e-5)


def test_coordinates_in_double_precision(tmp_path, picture, picture_file):
    """As torch's older exporter leaves those of deformable attention; here, to mirror the image."""
    x, y = ((np.arange(n) * 2 + 1) / n - 1 for n in (WIDTH, HEIGHT))
    grid = np.stack(np.meshgrid(-x, y), -1)[None]
    assert grid.dtype == np.float64
    after = [
        helper.make_node('Constant', [], ['grid'], value=numpy_helper.from_array(grid)),
        helper.make_node('GridSample', ['y', 'grid'], ['out'], padding_mode='border'),
    ]
    path = adopt(foreign(tmp_path / 'net.onnx', after=after), *METRIC, image=picture_file)
    assert np.allclose(run(path, picture)['depth'], raw(picture)[:, ::-1], atol=1e-4)


@pytest.mark.parametrize('inputs', ['paired', 'two'])
@pytest.mark.parametrize('outputs', ['six', 'two'])
@pytest.mark.parametrize(
    'options',
    [
        (),
        ('--pose-inverse',),
        ('--input-order', 'current-previous'),
        ('--pose-order', 'translation-rotation', '--pose-inverse'),
        ('--rotation', 'euler-xyz'),
        ('--rotation', 'euler-xyz', '--pose-inverse'),
    ],
)
def test_motion(tmp_path, picture, picture_file, inputs, outputs, options):
    source = tmp_path / 'net.onnx'
    of = motion_network(source, inputs=inputs, outputs=outputs)
    path = adopt(source, *UNIT, '--output-kind', 'metric', *options, image=picture_file)
    previous, current = picture, 255 - picture // 2
    pair = (current, previous) if 'current-previous' in options else (previous, current)
    vector = of(*pair)
    if 'translation-rotation' in options and outputs == 'six':
        vector = np.roll(vector, 3)
    rotation = rotation_from_vector(vector[:3])
    if 'euler-xyz' in options:
        (ca, cb, cc), (sa, sb, sc) = np.cos(vector[:3]), np.sin(vector[:3])
        rotation = (
            np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
            @ np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
            @ np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
        )
        assert np.abs(rotation - rotation_from_vector(vector[:3])).max() > 1e-3
    expected = pose(rotation, vector[3:])
    if '--pose-inverse' in options:
        expected = np.linalg.inv(expected)
    found = run(path, previous, current)['pose']
    np.testing.assert_allclose(
        pose(rotation_from_vector(found[:3]), found[3:]), expected, atol=1e-5
    )
    assert np.abs(found[3:]).max() > 0.05
    contract = read_contract(path)
    assert contract.metric and contract.task == 'pose'


def test_no_motion_is_no_rotation(tmp_path, picture):
    source = tmp_path / 'net.onnx'
    motion_network(source)
    black = np.zeros_like(picture)
    for options in (['--pose-inverse'], ['--rotation', 'euler-xyz', '--pose-inverse']):
        path = adopt(source, *UNIT, *options)
        np.testing.assert_array_equal(run(path, black, black)['pose'], np.zeros(6))

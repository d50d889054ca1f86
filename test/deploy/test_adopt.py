"""Networks of others in the contract: what they give is what numpy makes of the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from support.ros_process import NodeProcess, Peer
from support.scene import Scene, pixels

from depth_ros.commands import adopt_model, evaluate_bag
from depth_ros.core.se3 import pose, rotation_from_vector
from depth_ros.deploy.adopt.wrap import GraphBuilder
from depth_ros.deploy.fp16 import to_fp16
from depth_ros.deploy.onnx_graph import check_operators
from depth_ros.inference.contract import ContractError, ModelContract, read_contract
from depth_ros.inference.loader import load_engine
from depth_ros.inference.parity import ParityMeter

WIDTH, HEIGHT = 64, 48
WEIGHTS = np.array([[0.2, 0.3, 0.5]], np.float32)
CLASSES = ['road', 'car', 'sky', 'tree', 'pole']
UNIT = ['--normalization', 'unit']
METRIC = [*UNIT, '--output-kind', 'metric', '--intrinsics', '60', '62', '31', '23']
LABELS = [*UNIT, '--classes']


@pytest.fixture(scope='module')
def picture():
    """A picture at the size of the small networks, with values that differ everywhere."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope='module')
def picture_file(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures') / 'picture.png'
    cv2.imwrite(str(path), picture[..., ::-1])
    return path


@pytest.fixture(scope='module')
def classes_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('classes') / 'config.json'
    path.write_text(json.dumps({'id2label': {str(i): n for i, n in enumerate(CLASSES)}}))
    return path


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def save(path, nodes, inputs, outputs, tensors=(), opset=17, **options):
    graph = helper.make_graph(nodes, 'foreign', inputs, outputs, list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=8)
    onnx.save(model, path, **options)
    return path


def foreign(
    path,
    weights=WEIGHTS,
    *,
    bias=0.1,
    stride=1,
    shape=(1, 3, HEIGHT, WIDTH),
    opset=17,
    kind=TensorProto.FLOAT,
    out_shape=None,
    after=(),
    out_kind=None,
    rank=4,
    **options,
):
    """A convolution over patches: weights (N, 3) of the patch's mean colour. `after` are nodes
    from 'y' to 'out'."""
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    kernel = np.repeat(np.repeat(weights[:, :, None, None], stride, 2), stride, 3) / stride**2
    tensors = [
        numpy_helper.from_array(kernel.astype(dtype), 'w'),
        numpy_helper.from_array(np.full(len(weights), bias, dtype), 'b'),
    ]
    nodes = [
        helper.make_node(
            'Conv', ['x', 'w', 'b'], ['y'], strides=[stride, stride], kernel_shape=[stride, stride]
        )
    ]
    if shape[1] != 3 and shape[-1] == 3:
        nodes = [helper.make_node('Transpose', ['x'], ['t'], perm=[0, 3, 1, 2])] + nodes
        nodes[1].input[0] = 't'
    nodes += after or [helper.make_node('Identity', ['y'], ['out'])]
    return save(
        path,
        nodes,
        [value('x', kind, shape)],
        [value('out', out_kind or kind, out_shape)],
        tensors,
        opset,
        **options,
    )


def adopt(source, *options, image=None, ok=True):
    """Run the command; returns the file."""
    output = source.with_name(f'{source.stem}_adopted.onnx')
    arguments = [str(source), '--output', str(output), *map(str, options)]
    if image is not None:
        arguments += ['--image', *([str(image)] if not isinstance(image, list) else image)]
    assert adopt_model.main(arguments) == (0 if ok else 1)
    assert output.exists() == ok
    return output


def run(path, *images, backend='onnxruntime'):
    engine = load_engine(path, backend)
    names = engine.contract.inputs
    found = engine.infer({n: i[None] for n, i in zip(names, images, strict=True)})
    found = {n: v.copy() for n, v in found.items()}
    engine.close()
    check_operators(onnx.load(path))  # TensorRT
    return found


def raw(picture, weights=WEIGHTS[0], bias=0.1):
    return (picture / 255.0) @ weights + bias


# Depth --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
@pytest.mark.parametrize(
    ('kind', 'depth_of'),
    [
        ('metric', lambda y: y),
        ('relative', lambda y: y),
        ('inverse', lambda y: 1 / y),
        ('affine-inverse', lambda y: 1 / y),
        ('sigmoid', lambda y: 1 / (1 / 80 + (1 / 0.5 - 1 / 80) * y)),
    ],
)
def test_kinds_of_depth(tmp_path, picture, picture_file, kind, depth_of, backend):
    pytest.importorskip(backend)
    options = [*METRIC, '--output-kind', kind]
    if kind == 'sigmoid':
        options += ['--depth-range', 0.5, 80]
    path = adopt(foreign(tmp_path / 'net.onnx'), *options, image=picture_file)
    depth = run(path, picture, backend=backend)['depth']
    np.testing.assert_allclose(depth, depth_of(raw(picture)), rtol=1e-4)
    contract = read_contract(path)
    assert contract.metric == (kind == 'metric')
    assert contract.affine_invariant == (kind == 'affine-inverse')
    assert contract.intrinsics == (60, 62, 31, 23) and contract.outputs == ('depth',)


def test_inverse_depth_of_nothing_is_far_away(tmp_path, picture, picture_file):
    """Below 0 there is no depth: invalid where depth has a unit, farthest where it has none."""
    y = raw(picture, bias=-0.5)
    none, some = y < -1e-4, y > 1e-4
    assert 0.2 < none.mean() < 0.8
    source = foreign(tmp_path / 'net.onnx', bias=-0.5)
    for kind in ('inverse', 'affine-inverse'):
        path = adopt(source, *UNIT, '--output-kind', kind, image=picture_file)
        depth, far = run(path, picture)['depth'], read_contract(path).depth_range[1]
        np.testing.assert_allclose(depth[none], far if kind == 'affine-inverse' else 2 * far)
        np.testing.assert_allclose(depth[some], 1 / y[some], rtol=2e-3)
    path = adopt(
        source, *UNIT, '--output-kind', 'affine-inverse', '--offset', 0.6, image=picture_file
    )
    np.testing.assert_allclose(run(path, picture)['depth'], 1 / (y + 0.6), rtol=1e-4)


NORMALIZED = {
    'imagenet': lambda p: (p / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    'half': lambda p: p / 127.5 - 1,
    'unit': lambda p: p / 255,
    'bytes': lambda p: p * 1.0,
}


@pytest.mark.parametrize('color', ['rgb', 'bgr'])
@pytest.mark.parametrize('layout', ['nchw', 'nhwc'])
@pytest.mark.parametrize('normalization', NORMALIZED)
def test_images_come_as_the_network_wants_them(
    tmp_path, picture, picture_file, normalization, layout, color
):
    shape = (1, 3, HEIGHT, WIDTH) if layout == 'nchw' else (1, HEIGHT, WIDTH, 3)
    source = foreign(tmp_path / 'net.onnx', bias=5, shape=shape)
    path = adopt(
        source,
        '--normalization',
        normalization,
        '--color',
        color,
        '--output-kind',
        'relative',
        image=picture_file,
    )
    pixels = picture if color == 'rgb' else picture[..., ::-1]
    expected = NORMALIZED[normalization](pixels) @ WEIGHTS[0] + 5
    np.testing.assert_allclose(run(path, picture)['depth'], expected, rtol=1e-4)


def test_mean_and_std_are_of_the_networks_channels(tmp_path, picture, picture_file):
    path = adopt(
        foreign(tmp_path / 'net.onnx', bias=9),
        '--mean',
        0.1,
        0.2,
        0.3,
        '--std',
        0.5,
        0.25,
        1,
        '--color',
        'bgr',
        '--output-kind',
        'relative',
        image=picture_file,
    )
    expected = (picture[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 1] @ WEIGHTS[0] + 9
    np.testing.assert_allclose(run(path, picture)['depth'], expected, rtol=1e-4)


@pytest.mark.parametrize('squeeze', ['Identity', 'Squeeze', 'Transpose'])
def test_shapes_of_depth(tmp_path, picture, picture_file, squeeze):
    """[1, 1, h, w], [1, h, w] and [1, h, w, 1], at half the size."""
    if squeeze == 'Squeeze':
        after = [
            helper.make_node('Squeeze', ['y', 'axis'], ['out']),
            helper.make_node('Constant', [], ['axis'], value_ints=[1]),
        ][::-1]
    else:
        options = {'perm': [0, 2, 3, 1]} if squeeze == 'Transpose' else {}
        after = [helper.make_node(squeeze, ['y'], ['out'], **options)]
    path = adopt(foreign(tmp_path / 'net.onnx', stride=2, after=after), *METRIC, image=picture_file)
    half = raw(picture).reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
    np.testing.assert_allclose(run(path, picture)['depth'], enlarged(half), rtol=1e-4)


def enlarged(image):
    """Linear, pixel centres kept, to WIDTH x HEIGHT: one axis after the other."""
    for axis, size in enumerate((HEIGHT, WIDTH)):
        n = image.shape[axis]
        at = (np.arange(size) + 0.5) * n / size - 0.5
        low = np.clip(np.floor(at).astype(int), 0, n - 2)
        part = np.expand_dims(np.clip(at - low, 0, 1), 1 - axis)
        image = (1 - part) * image.take(low, axis) + part * image.take(low + 1, axis)
    return image


@pytest.mark.parametrize('opset', [9, 11, 14, 18, 20, 22])
def test_opsets(tmp_path, picture, picture_file, opset):
    path = adopt(foreign(tmp_path / 'net.onnx', opset=opset), *METRIC, image=picture_file)
    np.testing.assert_allclose(run(path, picture)['depth'], raw(picture), rtol=1e-4)


def test_half_precision_stays_and_five_dimensions_fit(tmp_path, picture, picture_file):
    path = adopt(
        foreign(tmp_path / 'net.onnx', kind=TensorProto.FLOAT16), *METRIC, image=picture_file
    )
    found = run(path, picture)['depth']
    np.testing.assert_allclose(found, raw(picture), rtol=2e-3)
    kinds = {i.data_type for i in onnx.load(path).graph.initializer if i.name == 'net/w'}
    assert kinds == {TensorProto.FLOAT16}

    views = save(
        tmp_path / 'views.onnx',
        [helper.make_node('ReduceMean', ['image'], ['depth'], axes=[2], keepdims=0)],
        [value('image', TensorProto.FLOAT, (1, 'views', 3, HEIGHT, WIDTH))],
        [value('depth', TensorProto.FLOAT, None)],
    )  # [1, 1, h, w], and the contract's own names
    found = run(adopt(views, *METRIC, image=picture_file), picture)['depth']
    np.testing.assert_allclose(found, picture.mean(-1) / 255, rtol=1e-4)


def test_networks_in_integers_are_judged_less_strictly(tmp_path, picture, picture_file):
    quantization = pytest.importorskip('onnxruntime.quantization')
    source = tmp_path / 'int8.onnx'
    quantization.quantize_dynamic(
        foreign(tmp_path / 'net.onnx', stride=2), source, weight_type=quantization.QuantType.QUInt8
    )
    path = adopt(source, *METRIC, image=picture_file)
    operators = {n.op_type for n in onnx.load(path).graph.node}
    assert 'ConvInteger' in operators  # as it was; TensorRT does not read it
    engine = load_engine(path, 'onnxruntime')
    half = raw(picture).reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
    np.testing.assert_allclose(
        engine.infer({'image': picture[None]})['depth'], enlarged(half), atol=0.02
    )
    engine.close()


def test_bytes_as_they_are(tmp_path, picture, picture_file, capsys):
    nodes = [
        helper.make_node('Cast', ['image'], ['real'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMean', ['real'], ['depth'], axes=[3], keepdims=0),
    ]
    source = save(
        tmp_path / 'net.onnx',
        nodes,
        [value('image', TensorProto.UINT8, (1, HEIGHT, WIDTH, 3))],
        [value('depth', TensorProto.FLOAT, None)],
    )
    adopt(source, *METRIC, image=picture_file, ok=False)
    assert 'takes bytes as they are' in capsys.readouterr().err
    path = adopt(source, *METRIC[2:], image=picture_file)
    np.testing.assert_allclose(run(path, picture)['depth'], picture.mean(-1), rtol=1e-5)


def test_engines_of_affine_depth_are_compared_by_its_inverse(tmp_path, picture_file):
    path = adopt(
        foreign(tmp_path / 'net.onnx'), *UNIT, '--output-kind', 'affine-inverse', image=picture_file
    )
    disparity = np.array([[2.0, 1, 1e-6, 1]], np.float32)  # far away, rounding is a large factor
    other = disparity + np.float32([[0, 0, 1e-3, 0]])
    comparison = ParityMeter(read_contract(path))
    comparison.add({'depth': 1 / disparity}, {'depth': 1 / other})
    found = comparison.result()
    assert (
        found.outputs['depth'].max == pytest.approx(1e-3, rel=0.01)
        and found.outputs['depth'].scale_jump == 0
    )


def test_weights_in_another_file(tmp_path, picture, picture_file):
    source = foreign(
        tmp_path / 'net.onnx', save_as_external_data=True, location='net.data', size_threshold=0
    )
    assert (tmp_path / 'net.data').exists()
    path = adopt(source, *METRIC, image=picture_file)
    (tmp_path / 'net.data').unlink()
    np.testing.assert_allclose(run(path, picture)['depth'], raw(picture), rtol=1e-4)
    path.unlink()
    adopt(source, *METRIC, image=picture_file, ok=False)


def test_a_size_is_chosen_where_it_is_open(tmp_path, picture, picture_file, capsys):
    source = foreign(tmp_path / 'net.onnx', stride=4, shape=('b', 3, 'h', 'w'))
    adopt(source, *METRIC, image=picture_file, ok=False)
    assert '--size 640x360' in capsys.readouterr().err  # multiples of the patch, 4
    adopt(source, *METRIC, '--size', '66x48', image=picture_file, ok=False)
    assert 'any width x any height, in multiples of 4' in capsys.readouterr().err
    path = adopt(source, *METRIC, '--size', f'{WIDTH}x{HEIGHT}', image=picture_file)
    quarter = raw(picture).reshape(HEIGHT // 4, 4, WIDTH // 4, 4).mean((1, 3))
    np.testing.assert_allclose(run(path, picture)['depth'], enlarged(quarter), rtol=1e-4)
    adopt(foreign(tmp_path / 'fixed.onnx'), *METRIC, '--size', '32x24', ok=False)
    assert 'takes 64x48 only' in capsys.readouterr().err


def test_presets_know_what_is_published(tmp_path, picture, picture_file, capsys):
    source = foreign(tmp_path / 'net.onnx', bias=5, shape=(1, 3, 'h', 'w'))
    adopt(source, '--preset', 'depth-anything-v2', '--size', f'{WIDTH}x{HEIGHT}', ok=False)
    assert 'multiples of 14, such as 644x364' in capsys.readouterr().err
    path = adopt(
        source,
        '--preset',
        'depth-anything-v2',
        '--size',
        '70x56',
        '--license',
        'Apache-2.0',
        '--name',
        'mine',
        image=picture_file,
    )
    contract = read_contract(path)
    assert contract.affine_invariant and not contract.metric and contract.name == 'mine'
    assert contract.provenance['preset'] == 'depth-anything-v2'
    assert contract.provenance['license'] == 'Apache-2.0'
    path = adopt(source, '--preset', 'metric3d', '--size', '70x56', image=picture_file)
    contract = read_contract(path)
    assert contract.metric and contract.intrinsics == (1000, 1000, 34.5, 27.5)
    # An option counts more than the preset.
    path = adopt(
        source,
        '--preset',
        'metric3d',
        '--size',
        f'{WIDTH}x{HEIGHT}',
        '--normalization',
        'unit',
        image=picture_file,
    )
    np.testing.assert_allclose(run(path, picture)['depth'], raw(picture, bias=5), rtol=1e-4)


def test_the_camera_of_the_training_comes_from_a_file(tmp_path, picture_file):
    source = foreign(tmp_path / 'net.onnx')
    options = [*UNIT, '--output-kind', 'metric', '--camera-info', tmp_path / 'camera.yaml']
    texts = (
        'image_width: 128\nimage_height: 96\ncamera_matrix: {data: [100, 0, 63.5, 0, 110, '
        '47.5, 0, 0, 1]}\n',
        'width: 128\nheight: 96\nk: [1, 0, 0, 0, 1, 0, 0, 0, 1]\np: [100, 0, 63.5, 0, 0, 110, '
        '47.5, 0, 0, 0, 1, 0]\n---\n',
    )
    for text in texts:
        (tmp_path / 'camera.yaml').write_text(text)
        path = adopt(source, *options, image=picture_file)
        assert read_contract(path).intrinsics == (50, 55, 31.5, 23.5)
        path.unlink()
    (tmp_path / 'camera.yaml').write_text('image_width: many\n')
    adopt(source, *options, ok=False)


# Classes ------------------------------------------------------------------------------------------

CLASS_WEIGHTS = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)


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


# Motion -------------------------------------------------------------------------------------------


def motion_network(path, *, inputs='paired', outputs='six', shape=None):
    """Six numbers from the mean brightness of the two images, weighted: no two are alike."""
    weights = np.random.default_rng(3).normal(0, 0.4, (2, 6)).astype(np.float32)
    names = ['x'] if inputs == 'paired' else ['first', 'second']
    nodes = [
        helper.make_node('ReduceMean', [n], [f'{n}_mean'], axes=[2, 3], keepdims=0) for n in names
    ]
    if inputs == 'paired':
        nodes += [
            helper.make_node('Reshape', ['x_mean', 'two'], ['six']),
            helper.make_node('ReduceMean', ['six'], ['means'], axes=[2], keepdims=0),
        ]
    else:
        nodes += [
            helper.make_node('ReduceMean', [f'{n}_mean'], [f'{n}_one'], axes=[1], keepdims=1)
            for n in names
        ]
        nodes += [helper.make_node('Concat', [f'{n}_one' for n in names], ['means'], axis=1)]
    nodes += [helper.make_node('MatMul', ['means', 'w'], ['all'])]
    found = ['all']
    if outputs == 'two':
        found = ['axisangle', 'translation']
        nodes += [
            helper.make_node('Split', ['all'], ['r', 't'], axis=1),
            helper.make_node('Reshape', ['r', 'three'], ['axisangle']),
            helper.make_node('Reshape', ['t', 'three'], ['translation']),
        ]
    tensors = [
        numpy_helper.from_array(v, n)
        for n, v in (
            ('w', weights),
            ('two', np.array([1, 2, 3])),
            ('three', np.array([1, 1, 1, 3])),
        )
    ]
    channels = 6 if inputs == 'paired' else 3
    save(
        path,
        nodes,
        [value(n, TensorProto.FLOAT, shape or (1, channels, HEIGHT, WIDTH)) for n in names],
        [value(n, TensorProto.FLOAT, None) for n in found],
        tensors,
        opset=12,
    )
    return lambda a, b: np.array([a.mean() / 255, b.mean() / 255]) @ weights


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


# Refusals -----------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(
    ('inputs', 'outputs', 'options', 'reason'),
    [
        ([X, ('k', F, (1, 3, 3))], [DEPTH], METRIC, r"more than images.*\['k'\].*intrinsics"),
        ([X, ('state', F, (1, 8))], [DEPTH], METRIC, 'more than images.*a state'),
        ([('x', F, (1, 4, 3, HEIGHT, WIDTH))], [DEPTH], METRIC, '4 images at a time'),
        ([('x', F, (2, 3, HEIGHT, WIDTH))], [DEPTH], METRIC, '2 images at a time'),
        ([X, ('y', *X[1:]), ('z', *X[1:])], [DEPTH], METRIC, '3 images at a time'),
        ([X, ('y', *X[1:])], [DEPTH], ['--task', 'depth', *METRIC], 'only pose is told of two'),
        ([('x', F, (1, 1, HEIGHT, WIDTH))], [DEPTH], METRIC, 'no channels of colour'),
        ([('x', I64, (1, 3, HEIGHT, WIDTH))], [DEPTH], METRIC, 'INT64.*must be float or uint8'),
        ([X], [DEPTH], ['--output-kind', 'metric'], 'how the network wants its images'),
        ([X], [DEPTH], UNIT, 'what its depth means.*--output-kind'),
        ([X], [DEPTH], [*UNIT, '--output-kind', 'metric'], 'belongs to the camera.*--intrinsics'),
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
        patch.setattr(adopt_model, 'adopt', None)
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


def test_the_command_explains_itself():
    result = subprocess.run(
        [sys.executable, '-m', 'depth_ros.commands.adopt_model', '--help'],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and 'affine-inverse' in result.stdout


# Real architectures -------------------------------------------------------------------------------


def test_a_segmentation_network_of_torchvision(tmp_path, picture_file):
    """As users export it: any size, opset 17, an auxiliary output."""
    torch, models = pytest.importorskip('torch'), pytest.importorskip('torchvision.models')
    torch.manual_seed(0)
    net = models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=19
    ).train()
    with torch.no_grad():
        net(torch.randn(8, 3, 96, 128))  # batch statistics, without which all is the bias
        for head in (net.classifier.low_classifier, net.classifier.high_classifier):
            head.bias.zero_()

    class Plain(torch.nn.Sequential):
        def forward(self, image):
            return self[0](image)['out']

    torch.onnx.export(
        Plain(net).eval(),
        (torch.rand(1, 3, 96, 128),),
        tmp_path / 'net.onnx',
        dynamo=False,
        opset_version=17,
        input_names=['input'],
        output_names=['out'],
        dynamic_axes={'input': {0: 'n', 2: 'h', 3: 'w'}, 'out': {0: 'n', 2: 'h', 3: 'w'}},
    )
    path = adopt(
        tmp_path / 'net.onnx',
        '--normalization',
        'imagenet',
        '--classes',
        'cityscapes',
        '--size',
        '128x96',
        image=picture_file,
    )
    picture = cv2.resize(cv2.imread(str(picture_file))[..., ::-1], (128, 96))
    found = run(path, picture)['labels']
    with torch.inference_mode():
        image = NORMALIZED['imagenet'](picture).transpose(2, 0, 1)[None].astype(np.float32)
        expected = net(torch.from_numpy(image))['out'].argmax(1)[0].numpy()
    assert len(np.unique(found)) > 1 and (found == expected).mean() > 0.999
    # Everything that follows from the size is computed beforehand.
    operators = {n.op_type for n in onnx.load(path).graph.node}
    assert not operators & {'Shape', 'If', 'Loop', 'ConstantOfShape'}
    half = to_fp16(onnx.load(path))
    onnxruntime.InferenceSession(half.SerializeToString())


def test_nvidias_builder_takes_adopted_networks(tmp_path, picture_file, classes_file):
    trt = pytest.importorskip('tensorrt_rtx')
    import threading

    from depth_ros.deploy.build import load_model, serialize

    depth = adopt(
        foreign(tmp_path / 'depth.onnx', stride=2),
        *UNIT,
        '--color',
        'bgr',
        '--output-kind',
        'affine-inverse',
        image=picture_file,
    )
    labels = adopt(
        foreign(tmp_path / 'labels.onnx', CLASS_WEIGHTS, stride=4),
        *LABELS,
        classes_file,
        image=picture_file,
    )
    after = [helper.make_node('Cast', ['y'], ['out'], to=TensorProto.INT64)]
    ids = adopt(
        foreign(tmp_path / 'ids.onnx', stride=2, after=after, out_kind=TensorProto.INT64),
        *LABELS,
        classes_file,
        image=picture_file,
    )
    motion_network(tmp_path / 'pose.onnx', outputs='two')
    motion = adopt(
        tmp_path / 'pose.onnx',
        *UNIT,
        '--pose-inverse',
        '--rotation',
        'euler-xyz',
        image=picture_file,
    )
    for path in (depth, labels, ids, motion):
        plan, _ = serialize(load_model(path, 'fp32'), trt, None, threading.Event())
        assert plan


# In use -------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def affine_model(tmp_path_factory, picture_file):
    """Depth of unknown scale and shift, nearer where it is brighter, and classes without sky."""
    folder = tmp_path_factory.mktemp('affine')
    names = folder / 'names.json'
    names.write_text(json.dumps(['road', 'car', 'house', 'tree', 'pole']))
    weights = [
        numpy_helper.from_array(w[:, :, None, None], n)
        for n, w in (('d', WEIGHTS), ('c', CLASS_WEIGHTS))
    ]
    source = save(
        folder / 'net.onnx',
        [
            helper.make_node('Conv', ['x', 'd'], ['disparity']),
            helper.make_node('Conv', ['x', 'c'], ['logits']),
        ],
        [value('x', F, (1, 3, HEIGHT, WIDTH))],
        [value(n, F, None) for n in ('disparity', 'logits')],
        weights,
    )
    return adopt(
        source,
        *UNIT,
        '--task',
        'depth',
        'semantics',
        '--output-kind',
        'affine-inverse',
        '--offset',
        0.1,
        '--classes',
        names,
        image=picture_file,
    )


def test_the_node_shows_affine_depth_and_publishes_no_distance(affine_model):
    parameters = {'model': affine_model, 'depth_scale': 2.5, 'max_depth': 1.0}
    with NodeProcess('perception_node', parameters) as process, Peer() as peer:
        scene = Scene(peer, process)
        kinds = {
            '/depth/color': Image,
            '/semantics/labels': Image,
            '/depth/image_rect': Image,
            '/depth/camera_info': CameraInfo,
            '/points': PointCloud2,
        }
        listeners = {topic: peer.listen(kind, topic) for topic, kind in kinds.items()}
        peer.wait_state('perception_node', 'active')
        scene.camera.wait_matched()
        peer.spin_until(listeners['/depth/color'].get_publisher_count, what='publisher')
        process.wait_for('depth/image_rect, depth/camera_info and points are not published')
        found = scene.answer(['/depth/color', '/semantics/labels'])
        peer.spin_for(0.3)
        for topic in ('/depth/image_rect', '/depth/camera_info', '/points'):
            assert listeners[topic].get_publisher_count() == 0 and not peer.messages[topic]
        color = pixels(found['/depth/color']).astype(int)
        assert color.any(axis=-1).all()  # max_depth, in metres, cuts nothing off
        assert color[5, 5, 0] > color[5, 5, 2] and color[-5, 5, 2] > color[-5, 5, 0]


def test_evaluation_fits_scale_and_shift(affine_model, repository, tmp_path, capsys):
    """On the shipped recording, against a few lines of numpy for the first frame."""
    out = tmp_path / 'out'
    assert (
        evaluate_bag.main(
            [
                str(repository / 'demo' / 'street'),
                '--model',
                str(affine_model),
                '--out',
                str(out),
                '--classes',
                'model',
                '--depth-scale',
                '3',
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert 'scaled_and_shifted' in text and 'fitted to the truth in each frame' in text
    found = json.loads((out / 'metrics.json').read_text())
    rows = found['depth']['rows']
    assert 'scaled_and_shifted_50m' in rows
    assert not {'median_scaled', 'as_published'} & set(rows)
    assert found['consistency'] is None  # depths of two frames have nothing in common
    from depth_ros.bags.reader import Bag

    with Bag(out / 'recording') as bag:
        names = {t.removeprefix('/depth_ros') for t in bag.topics}
    assert '/depth/color/compressed' in names and '/semantics/labels' in names
    report = (out / 'report.html').read_text()
    assert 'Scale and shift of each prediction are fitted' in report
    assert 'up to scale and shift' in report


def test_train_evaluate_fits_scale_and_shift(tmp_path, picture_file, capsys):
    """A network that is right but for scale and shift has no error."""
    pytest.importorskip('torch')
    from train.__main__ import main as train

    folder, rng = tmp_path / 'street', np.random.default_rng(0)
    for kind in ('images', 'depth'):
        (folder / kind).mkdir(parents=True)
    for i in range(3):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[..., 0] = rng.integers(0, 256, (HEIGHT, WIDTH))
        cv2.imwrite(str(folder / f'images/{i}.png'), image[..., ::-1])
        depth = 1000 / (image[..., 0] / 255 + 0.05)
        cv2.imwrite(str(folder / f'depth/{i}.png'), np.round(depth).astype(np.uint16))
    np.savetxt(folder / 'intrinsics.txt', [[50, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])
    weights = np.array([[0.8, 0, 0]], np.float32)
    model = adopt(
        foreign(tmp_path / 'net.onnx', weights, bias=0.3),
        *UNIT,
        '--output-kind',
        'affine-inverse',
        image=picture_file,
    )
    assert (
        train(
            [
                'evaluate',
                str(folder),
                '--model',
                str(model),
                '--json',
                str(tmp_path / 'found.json'),
                '--out',
                str(tmp_path / 'out'),
            ]
        )
        == 0
    )
    found = json.loads((tmp_path / 'found.json').read_text())
    assert found['depth']['scaled_and_shifted']['abs_rel'] == pytest.approx(0, abs=5e-4)
    assert not {'median_scaled', 'as_published'} & set(found['depth'])
    assert 'only up to scale and shift' in capsys.readouterr().out
    assert len(list((tmp_path / 'out/pictures').glob('*.jpg'))) == 3


def test_live_evaluation_says_what_it_cannot_judge(tmp_path, repository, picture_file, capsys):
    path = adopt(
        foreign(tmp_path / 'net.onnx'), *UNIT, '--output-kind', 'affine-inverse', image=picture_file
    )
    assert (
        evaluate_bag.main(
            [
                str(repository / 'demo' / 'street'),
                '--model',
                str(path),
                '--mode',
                'live',
                '--out',
                str(tmp_path / 'out'),
            ]
        )
        == 1
    )
    assert 'judge it with --mode offline' in capsys.readouterr().err


def test_the_contract_goes_round(affine_model):
    contract = read_contract(affine_model)
    assert ModelContract.from_json(contract.to_json()) == contract
    model = onnx.load(affine_model)
    with pytest.raises(ContractError, match='affine_invariant'):
        ModelContract.from_json(contract.to_json().replace('"metric": false', '"metric": true'))
    assert {p.key for p in model.metadata_props} == {'depth_ros'}

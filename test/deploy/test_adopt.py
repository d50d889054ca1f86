"""Networks of others in the contract: what they give is what numpy makes of the same numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.foreign_models import (
    HEIGHT,
    METRIC,
    NORMALIZED,
    UNIT,
    WEIGHTS,
    WIDTH,
    adopt,
    enlarged,
    foreign,
    raw,
    run,
    save,
    value,
)

from depth_ros.inference.contract import read_contract
from depth_ros.inference.loader import load_engine
from depth_ros.inference.parity import ParityMeter


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


def test_as_yolo26_depth_is_built(tmp_path, picture, picture_file):
    """exp of a limited log-depth at a quarter of the size, enlarged corner to corner."""
    after = [
        helper.make_node('Constant', [], ['low'], value_float=-4.0),
        helper.make_node('Constant', [], ['high'], value_float=5.0),
        helper.make_node('Clip', ['y', 'low', 'high'], ['log']),
        helper.make_node('Exp', ['log'], ['coarse']),
        helper.make_node('Constant', [], ['factor'], value_floats=[1.0, 1.0, 4.0, 4.0]),
        helper.make_node(
            'Resize',
            ['coarse', '', 'factor'],
            ['out'],
            mode='linear',
            coordinate_transformation_mode='align_corners',
        ),
    ]
    source = foreign(tmp_path / 'net.onnx', stride=4, after=after)
    options = ['--preset', 'yolo26-depth', '--intrinsics', 60, 62, 31, 23]
    path = adopt(source, *options, image=picture_file)
    coarse = np.exp(raw(picture).reshape(HEIGHT // 4, 4, WIDTH // 4, 4).mean((1, 3)))
    depth = run(path, picture)['depth']
    np.testing.assert_allclose(
        depth[[0, 0, -1, -1], [0, -1, 0, -1]], coarse[[0, 0, -1, -1], [0, -1, 0, -1]], rtol=1e-4
    )
    assert read_contract(path).metric


def test_nodes_in_any_order(tmp_path, picture, picture_file):
    """As ultralytics' export in half precision leaves them: the casts come last."""
    source = foreign(
        tmp_path / 'net.onnx', after=[helper.make_node('Identity', ['y'], ['out'])], stride=2
    )
    model = onnx.load(source)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    onnx.save(model, source)
    half = raw(picture).reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
    found = run(adopt(source, *METRIC, image=picture_file), picture)['depth']
    np.testing.assert_allclose(found, enlarged(half), rtol=1e-4)


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

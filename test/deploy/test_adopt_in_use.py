"""Adopted networks in use: real architectures, the node, evaluation, TensorRT."""

import json

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from support.foreign_models import (
    CLASS_WEIGHTS,
    HEIGHT,
    LABELS,
    NORMALIZED,
    UNIT,
    WEIGHTS,
    WIDTH,
    adopt,
    foreign,
    motion_network,
    run,
    save,
    value,
)
from support.ros_process import NodeProcess, Peer
from support.scene import Scene, pixels

from depth_ros.commands import evaluate_bag
from depth_ros.deploy.fp16 import to_fp16
from depth_ros.inference.contract import ContractError, ModelContract, read_contract


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
        [value('x', TensorProto.FLOAT, (1, 3, HEIGHT, WIDTH))],
        [value(n, TensorProto.FLOAT, None) for n in ('disparity', 'logits')],
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

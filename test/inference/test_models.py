"""The shipped models: small, described, and as good as their card says on a held-out street."""

import cv2
import numpy as np
import pytest
from support.metrics import aligned_rmse, depth_metrics

from depth_ros.bags.messages import header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import find_streams
from depth_ros.core.images import decode_depth, decode_labels
from depth_ros.core.metrics.depth import mean_depth_metrics
from depth_ros.core.metrics.semantics import confusion, iou
from depth_ros.core.metrics.trajectory import path_length
from depth_ros.core.se3 import pose, rotation_from_vector
from depth_ros.inference.contract import read_contract
from depth_ros.inference.loader import load_engine

pytestmark = pytest.mark.slow  # networks of their full size


@pytest.fixture(scope='module')
def street(repository):
    """The shipped recording: images, and its ground truth by stamp."""
    images, depths, labels, positions = {}, {}, {}, {}
    with Bag(repository / 'demo' / 'street') as bag:
        streams = find_streams(bag)
        for message in bag.messages():
            stamp, decoded = header_stamp(message.data), bag.decode(message)
            if message.topic == streams.image:
                bgr = cv2.imdecode(np.asarray(decoded.data), cv2.IMREAD_COLOR)
                images[stamp] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            elif message.topic == streams.depth:
                depths[stamp] = decode_depth(decoded)
            elif message.topic == streams.labels:
                labels[stamp] = decode_labels(decoded)
            elif message.topic == streams.odom:
                p = decoded.pose.pose.position
                positions[stamp] = p.x, p.y, p.z
    return images, depths, labels, np.array([positions[s] for s in images])


@pytest.fixture(scope='module', params=['models', 'models/synthetic'])
def models(repository, request):
    """The folders of the weights that ship."""
    return repository / request.param


@pytest.fixture(scope='module')
def predictions(models, street):
    engine = load_engine(models / 'perception.onnx')
    size = engine.contract.input_width, engine.contract.input_height
    return engine.contract, {
        stamp: {k: v.copy() for k, v in engine.infer({'image': resized(image, size)[None]}).items()}
        for stamp, image in street[0].items()
    }


def resized(image, size):
    return (
        image
        if image.shape[1::-1] == size
        else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    )


def test_models_are_small_and_say_where_they_come_from(repository, models):
    files = [models / f'{name}.onnx' for name in ('perception', 'pose')]
    assert sum(f.stat().st_size for f in files) < 15e6
    card = (repository / 'models' / 'README.md').read_text()
    for file in files:
        contract = read_contract(file)
        licence = 'Apache-2.0' if models.name == 'synthetic' else 'CC BY-NC-SA 3.0'
        assert contract.metric and contract.provenance['license'].startswith(licence)
        assert contract.provenance['steps'] > 0
        assert contract.name in card


@pytest.mark.slow
def test_depth_is_as_good_as_promised(street, predictions):
    depths, (_, outputs) = street[1], predictions
    pairs = [(1 / cv2.resize(1 / outputs[s]['depth'], d.shape[::-1]), d) for s, d in depths.items()]
    assert len(pairs) == 50
    scaled = mean_depth_metrics(depth_metrics(p, d, median_scaling=True) for p, d in pairs)
    assert scaled.abs_rel < 0.20
    # Metres, as published: no ground truth was used to find the scale.
    assert mean_depth_metrics(depth_metrics(p, d) for p, d in pairs).abs_rel < 0.20


def test_road_is_found(street, predictions):
    contract, outputs = predictions
    matrix = sum(
        confusion(
            cv2.resize(outputs[s]['labels'], t.shape[::-1], interpolation=cv2.INTER_NEAREST),
            t,
            len(contract.classes),
        )
        for s, t in street[2].items()
    )
    assert iou(matrix)[contract.class_id('road')] > 0.9


def test_trajectory_follows_the_path(models, street):
    images, _, _, truth = street
    engine = load_engine(models / 'pose.onnx')
    size = engine.contract.input_width, engine.contract.input_height
    frames = [resized(image, size)[None] for image in images.values()]
    where, path = np.eye(4), [np.zeros(3)]
    for previous, current in zip(frames, frames[1:], strict=False):
        step = engine.infer({'previous': previous, 'current': current})['pose']
        where = where @ pose(rotation_from_vector(step[:3]), step[3:])
        path.append(where[:3, 3])
    assert path_length(truth) > 90
    # In metres, as published: the alignment does not fit the scale.
    assert aligned_rmse(np.array(path), truth, with_scale=False)[0] < 0.05 * path_length(truth)

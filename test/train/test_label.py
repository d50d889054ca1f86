"""Pseudo-labels of tiny networks whose answers are known."""

import argparse

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import onnx_models

from depth_ros.files import HeldError, file_hash, locked
from train.__main__ import main as train_main
from train.commands.label import add_arguments, run
from train.data import labelling
from train.data.label_page import look_at, road_in_the_sky, warnings
from train.data.labels import Labeller, model_hash
from train.data.sequences import DataError, find_sequences, read_map

WIDTH, HEIGHT = 64, 32


def save(path, weights, bias, size=(HEIGHT, WIDTH), output='logits'):
    """A network float [1, 3, H, W] to scores [1, classes, H, W]: a linear map of each pixel."""
    weights, bias = np.array(weights, np.float32), np.array(bias, np.float32)
    nodes = [helper.make_node('Conv', ['image', 'weights', 'bias'], [output])]
    tensors = [
        numpy_helper.from_array(weights[:, :, None, None], 'weights'),
        numpy_helper.from_array(bias, 'bias'),
    ]
    return _save(
        path,
        nodes,
        tensors,
        TensorProto.FLOAT,
        [1, 3, *size],
        output,
        TensorProto.FLOAT,
        [1, len(bias), *size],
    )


def save_ids(path, factor, dtype=TensorProto.INT64):
    """A network float [1, 3, h, w] to ids [1, h, w]: the sum of the channels times a factor."""
    nodes = [
        helper.make_node('ReduceSum', ['image', 'axis'], ['sum'], keepdims=0),
        helper.make_node('Mul', ['sum', 'factor'], ['product']),
        helper.make_node('Floor', ['product'], ['floor']),
        helper.make_node('Cast', ['floor'], ['ids'], to=dtype),
    ]
    tensors = [
        numpy_helper.from_array(np.array([1], np.int64), 'axis'),
        numpy_helper.from_array(np.float32(factor), 'factor'),
    ]
    return _save(
        path, nodes, tensors, TensorProto.FLOAT, [1, 3, 'h', 'w'], 'ids', dtype, [1, 'h', 'w']
    )


def _save(path, nodes, tensors, kind, shape, output, output_kind, output_shape):
    graph = helper.make_graph(
        nodes,
        'tiny',
        [helper.make_tensor_value_info('image', kind, shape)],
        [helper.make_tensor_value_info(output, output_kind, output_shape)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


PLAIN = {'mean': (0, 0, 0), 'std': (1, 1, 1)}
# Class 0 wins where red is most, 1 where green is, 2 where blue is.
PRIMARY = {'weights': 20 * np.eye(3), 'bias': np.zeros(3)}


def colors(width=WIDTH, height=HEIGHT):
    """BGR: red on the left, then green, then blue on the right half."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 4, 2] = image[:, width // 4 : width // 2, 1] = image[:, width // 2 :, 0] = (
        255
    )
    return image


def thirds(a, b, c, width=WIDTH, height=HEIGHT):
    row = np.full(width, c)
    row[: width // 4], row[width // 4 : width // 2] = a, b
    return np.tile(row, (height, 1))


@pytest.fixture
def data(tmp_path):
    """Two sequences of three images; no intrinsics are needed."""
    for name in ('a', 'b'):
        (tmp_path / f'data/{name}/images').mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(str(tmp_path / f'data/{name}/images/{i}.png'), colors())
    return tmp_path / 'data'


def label(*options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(o) for o in options]))


def test_scores_become_train_ids(tmp_path):
    model = save(tmp_path / 'm.onnx', **PRIMARY)
    labels = Labeller(model, classes='car,11,sky', **PLAIN)(colors())
    assert labels.dtype == np.uint8 and np.array_equal(labels, thirds(13, 11, 10))


def test_channel_order_mean_and_std(tmp_path):
    model = save(tmp_path / 'm.onnx', **PRIMARY)
    bgr = Labeller(model, classes='car,11,sky', order='bgr', **PLAIN)
    assert np.array_equal(bgr(colors()), thirds(10, 11, 13))
    # One class is red minus 1, the other 0: with red normalised as (1 - 0.5) / 0.2 = 2.5.
    model = save(tmp_path / 'n.onnx', [[1, 0, 0], [0, 0, 0]], [-1, 0])
    values = {'classes': 'road,sky', 'std': (0.2, 1, 1)}
    assert np.array_equal(Labeller(model, mean=(0.5, 0, 0), **values)(colors()), thirds(0, 10, 10))
    assert (Labeller(model, mean=(0.9, 0, 0), **values)(colors()) == 10).all()


def test_output_is_of_the_images_size(tmp_path):
    labeller = Labeller(save(tmp_path / 'm.onnx', **PRIMARY), classes='car,11,sky', **PLAIN)
    labels = labeller(colors(4 * WIDTH, 2 * HEIGHT))
    assert labels.shape == (2 * HEIGHT, 4 * WIDTH)
    assert (labels == thirds(13, 11, 10, 4 * WIDTH, 2 * HEIGHT)).mean() > 0.98


def test_confidence(tmp_path):
    """By hand: red gives logits (1, 0), so 1 / (1 + 1/e) = 0.73; elsewhere (0, 0), so 0.5."""
    model = save(tmp_path / 'm.onnx', [[1, 0, 0], [0, 0, 0]], [0, 0])
    for threshold, wanted in ((0, (0, 0, 0)), (0.6, (0, 255, 255)), (0.74, (255, 255, 255))):
        labels = Labeller(model, classes='road,sky', confidence=threshold, **PLAIN)(colors())
        assert np.array_equal(labels, thirds(*wanted)), threshold


def test_probabilities_are_taken_as_they_are(tmp_path):
    """0.55 and 0.45 stay so; as logits they would be 0.52 and 0.48."""
    model = save(tmp_path / 'm.onnx', np.zeros((2, 3)), [0.55, 0.45])
    for threshold, wanted in ((0.53, 0), (0.56, 255)):
        labels = Labeller(model, classes='road,sky', confidence=threshold, **PLAIN)(colors())
        assert (labels == wanted).all()


def test_classes_that_become_one_add_up(tmp_path):
    """Probabilities 0.4, 0.3, 0.3: alone the first wins, two vehicles together beat it."""
    model = save(tmp_path / 'm.onnx', np.zeros((3, 3)), np.log([0.4, 0.3, 0.3]))
    (tmp_path / 'classes.txt').write_text('road\ncar\ncar\n')
    for classes, wanted in (
        ('road,car,truck', 0),
        (str(tmp_path / 'classes.txt'), 13),
        ('road,-,-', 255),
        ('-,car,truck', 255),
    ):
        assert (Labeller(model, classes=classes, **PLAIN)(colors()) == wanted).all(), classes


def test_mirror_image_averages(tmp_path, monkeypatch):
    """A network that looks only at the column: it says road on the left, sky on the right.

    The average over the mirror image is undecided, in the probabilities, everywhere.
    """
    ramp = np.tile(np.linspace(-4, 4, WIDTH, dtype=np.float32), (HEIGHT, 1))
    logits = np.stack([-ramp, ramp])[None]
    nodes = [
        helper.make_node('ReduceMean', ['image'], ['mean'], keepdims=1),
        helper.make_node('Mul', ['mean', 'zero'], ['nothing']),
        helper.make_node('Add', ['nothing', 'ramp'], ['logits']),
    ]
    tensors = [
        numpy_helper.from_array(logits, 'ramp'),
        numpy_helper.from_array(np.float32(0), 'zero'),
    ]
    model = _save(
        tmp_path / 'm.onnx',
        nodes,
        tensors,
        TensorProto.FLOAT,
        [1, 3, HEIGHT, WIDTH],
        'logits',
        TensorProto.FLOAT,
        [1, 2, HEIGHT, WIDTH],
    )
    half = np.arange(WIDTH) < WIDTH // 2
    once = Labeller(model, classes='road,sky', confidence=0.501, **PLAIN)(colors())
    assert (once[:, half] == 0).all() and (once[:, ~half] == 10).all()
    both = Labeller(model, classes='road,sky', confidence=0.501, flip=True, **PLAIN)(colors())
    assert (both == 255).all()


def test_ids(tmp_path):
    model = save_ids(tmp_path / 'm.onnx', 1 / 255)
    # White is normalised to 3 * 255 * 4 / 255: 12 after the factor.
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    image[:10] = 0
    labeller = Labeller(model, mean=(0, 0, 0), std=(1 / 1020,) * 3)
    labels = labeller(image)
    assert (labels[10:] == 12).all() and (labels[:10] == 0).all()
    classes = ','.join(['sky'] + ['-'] * 11 + ['car'])
    labels = Labeller(model, mean=(0, 0, 0), std=(1 / 1020,) * 3, classes=classes, flip=True)(image)
    assert (labels[10:] == 13).all() and (labels[:10] == 10).all()
    with pytest.raises(DataError, match='ids 0 to 12, but 2 classes'):
        Labeller(model, mean=(0, 0, 0), std=(1 / 1020,) * 3, classes='road,sky')(image)
    with pytest.raises(DataError, match='no probability for --confidence'):
        Labeller(model, confidence=0.5)(image)


def test_models_of_any_size_take_the_images(tmp_path):
    """To the nearest 32 pixels, or --size."""
    model = save_ids(tmp_path / 'm.onnx', 0)
    sizes = []
    labeller = Labeller(model)
    infer = labeller._infer
    labeller._infer = lambda image: sizes.append(image.shape[:2]) or infer(image)
    assert labeller(colors(100, 50)).shape == (50, 100)
    labeller._size = Labeller(model, size=(64, 96))._size
    assert labeller(colors(100, 50)).shape == (50, 100)
    assert sizes == [(64, 96), (96, 64)]


def test_our_own_models_say_what_their_classes_are(tmp_path):
    """uint8 in, ids out: brightness // 64 is road, car, building or sky, by the contract."""
    model = onnx_models.save_perception(tmp_path / 'm.onnx', width=WIDTH, height=HEIGHT)
    labels = Labeller(model)(np.full((HEIGHT, WIDTH, 3), 70, np.uint8))
    assert (labels == 13).all()
    assert (Labeller(model)(np.full((HEIGHT, WIDTH, 3), 200, np.uint8)) == 10).all()


def test_command_labels_once(tmp_path, data, capsys):
    model = save(tmp_path / 'm.onnx', **PRIMARY)
    options = (
        data,
        '--model',
        model,
        '--classes',
        'car,11,sky',
        '--mean',
        0,
        0,
        0,
        '--std',
        1,
        1,
        1,
    )
    label(*options)
    for sequence in find_sequences(data, calibrated=False):
        for i in range(3):
            assert np.array_equal(read_map(sequence.semantics_path(i)), thirds(13, 11, 10))
    assert 'labelled 6 images, 0.0% of the pixels unknown; 0 were' in capsys.readouterr().out
    with pytest.raises(DataError, match='another confidence: remove it'):
        label(*options, '--confidence', 0.5)
    with pytest.raises(DataError, match='another model: remove it'):
        label(
            data,
            '--model',
            save(tmp_path / 'n.onnx', 2 * PRIMARY['weights'], PRIMARY['bias']),
            *options[3:],
        )


def test_an_interrupted_run_goes_on(tmp_path, data, capsys, monkeypatch):
    model = save(tmp_path / 'm.onnx', **PRIMARY)
    options = (data, '--model', model, '--classes', 'car,11,sky')
    written, save_file = [], labelling.save

    def interrupted(path, labels):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        return save_file(path, labels)

    monkeypatch.setattr(labelling, 'save', interrupted)
    with pytest.raises(KeyboardInterrupt):
        label(*options)
    again = []
    monkeypatch.setattr(
        labelling, 'save', lambda path, labels: again.append(path) or save_file(path, labels)
    )
    label(*options)
    assert len(again) == 2 and not set(again) & set(written)
    assert 'labelled 2 images' in capsys.readouterr().out
    assert len(list(data.glob('*/semantics/*.png'))) == 6


def test_labels_of_others_are_not_touched(tmp_path, data):
    (data / 'b/semantics').mkdir()
    cv2.imwrite(str(data / 'b/semantics/0.png'), np.zeros((HEIGHT, WIDTH), np.uint8))
    model = save(tmp_path / 'm.onnx', **PRIMARY)
    with pytest.raises(DataError, match="b/semantics' holds labels of another origin"):
        label(data, '--model', model, '--classes', 'car,11,sky')
    assert not list((data / 'a').glob('semantics/*.png'))


def test_damaged_images_are_counted(tmp_path, data, capsys):
    (data / 'a/images/1.png').write_bytes(b'')
    with pytest.raises(DataError, match='1 images are damaged and have no labels'):
        label(data, '--model', save(tmp_path / 'm.onnx', **PRIMARY), '--classes', 'car,11,sky')
    text = capsys.readouterr().out
    assert 'labelled 5 images' in text and "1.png' is damaged" in text and '1 are damaged' in text


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, r'shape \(1, 3, 32, 64\), which are 3 classes, or 64 .* but 19 classes are known'),
        ({'classes': 'road,sky'}, '3 classes, or 64 if they come last, but 2 classes'),
        ({'classes': 'road,sky,unicorn'}, "class 'unicorn' is none"),
        ({'size': (96, 96)}, 'takes images of 64x32 only'),
        ({'output': 'x'}, "no output 'x', but log"),
        ({'std': (0, 1, 1)}, '--std must be positive'),
        ({'classes': 'classes.txt'}, "--classes: the file 'classes.txt' does not exist"),
        ({'classes': '/tmp'}, "--classes: the file '/tmp' is a folder"),
    ],
)
def test_bad_options(tmp_path, options, message):
    model = save(tmp_path / 'm.onnx', **PRIMARY)
    with pytest.raises(DataError, match=message):
        Labeller(model, **options)(colors())


def test_files_that_are_no_segmentation_network(tmp_path, data, capsys):
    (tmp_path / 'no.onnx').write_text('no model')
    pose = onnx_models.save_pose(tmp_path / 'pose.onnx')
    for model, message in (
        (tmp_path / 'no.onnx', 'cannot load model'),
        (pose, 'expected one image'),
        (tmp_path / 'none.onnx', 'none.onnx'),
    ):
        assert train_main(['label', str(data), '--model', str(model)]) == 2
        assert message in capsys.readouterr().err
    assert not list(data.glob('*/semantics'))


def test_a_failed_first_try_claims_nothing(tmp_path, data):
    """A wrong --classes is mended by the right one, without removing anything."""
    model = save(tmp_path / 'm.onnx', **PRIMARY)
    for wrong in (('--classes', 'road,sky'), ()):
        with pytest.raises(DataError, match='classes are known'):
            label(data, '--model', model, *wrong)
        assert not list(data.glob('*/semantics'))
    label(data, '--model', model, '--classes', 'car,11,sky')
    assert len(list(data.glob('*/semantics/*.png'))) == 6


def test_what_has_changed_is_labelled_again(tmp_path, data, capsys):
    """Mended, replaced and added images; one that was only copied is not."""
    options = (data, '--model', save(tmp_path / 'm.onnx', **PRIMARY), '--classes', 'car,11,sky')
    (data / 'a/images/1.png').write_bytes(b'')
    with pytest.raises(DataError, match='damaged'):
        label(*options)
    cv2.imwrite(str(data / 'a/images/1.png'), colors())
    cv2.imwrite(str(data / 'a/images/2.png'), colors()[:, ::-1])
    cv2.imwrite(str(data / 'b/images/3.png'), colors())
    copied = (data / 'b/images/0.png').read_bytes()
    (data / 'b/images/0.png').unlink()
    (data / 'b/images/0.png').write_bytes(copied)
    capsys.readouterr()
    label(*options)
    text = capsys.readouterr().out
    assert 'labelled 3 images' in text and '1 images have changed since they were' in text
    assert np.array_equal(read_map(data / 'a/semantics/2.png'), thirds(13, 11, 10)[:, ::-1])
    label(*options)
    assert 'labelled 0 images' in capsys.readouterr().out


def test_two_at_once(tmp_path, data):
    options = (data, '--model', save(tmp_path / 'm.onnx', **PRIMARY), '--classes', 'car,11,sky')
    with (
        locked(data / 'b/.label.lock', "label of 'b'"),
        pytest.raises(HeldError, match="is in use by process .* label of 'b'"),
    ):
        label(*options)
    label(*options)
    assert not list(data.glob('*/.label.lock'))


def test_ctrl_c_is_one_line(tmp_path, data, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(labelling, 'save', interrupted)
    model = save(tmp_path / 'm.onnx', **PRIMARY)
    words = ['label', str(data), '--model', str(model), '--classes', 'car,11,sky']
    assert train_main(words) == 130
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1] == 'python -m train label: stopped; the same command goes on'


def test_a_network_of_a_fixed_size_is_mentioned(tmp_path):
    """A resize that decides about the masks more than the network does."""
    fixed = Labeller(save(tmp_path / 'm.onnx', **PRIMARY))
    assert not fixed.doubt(64, 32) and not fixed.doubt(96, 48)
    assert 'enlarged 2.0 times to the 64x32' in fixed.doubt(32, 16)
    assert 'stretched 1.50 times' in fixed.doubt(64, 48) and 'dynamic' in fixed.doubt(64, 48)
    assert 'shrunk to 0.25' in fixed.doubt(256, 128)
    free = Labeller(save_ids(tmp_path / 'n.onnx', 0))
    assert not free.doubt(640, 192) and not free.doubt(621, 188)
    chosen = Labeller(save_ids(tmp_path / 'n.onnx', 0), size=(1024, 512))
    assert 'choose a --size' in chosen.doubt(640, 192)


def test_classes_that_come_last(tmp_path):
    """Scores [1, h, w, classes], as of networks from TensorFlow."""
    model = onnx.load(save(tmp_path / 'm.onnx', **PRIMARY))
    model.graph.node.append(helper.make_node('Transpose', ['logits'], ['last'], perm=[0, 2, 3, 1]))
    model.graph.output[0].name = 'last'
    for dim, value in zip(
        model.graph.output[0].type.tensor_type.shape.dim, (1, HEIGHT, WIDTH, 3), strict=True
    ):
        dim.dim_value = value
    onnx.save(model, tmp_path / 'last.onnx')
    labels = Labeller(tmp_path / 'last.onnx', classes='car,11,sky', **PLAIN)(colors())
    assert np.array_equal(labels, thirds(13, 11, 10))


def test_weights_beside_the_model_count(tmp_path):
    model = onnx.load(save(tmp_path / 'm.onnx', **PRIMARY))
    onnx.save(
        model,
        tmp_path / 'big.onnx',
        save_as_external_data=True,
        location='big.bin',
        size_threshold=0,
    )
    before = model_hash(tmp_path / 'big.onnx')
    weights = bytearray((tmp_path / 'big.bin').read_bytes())
    weights[0] ^= 1
    (tmp_path / 'big.bin').write_bytes(weights)
    assert model_hash(tmp_path / 'big.onnx') != before
    assert model_hash(tmp_path / 'm.onnx') == file_hash(tmp_path / 'm.onnx')


def test_the_page_shows_what_the_masks_are_like(tmp_path, data, capsys):
    options = (data, '--model', save(tmp_path / 'm.onnx', **PRIMARY), '--classes', 'road,-,sky')
    label(*options, '--mean', 0, 0, 0, '--std', 1, 1, 1)
    text = capsys.readouterr().out
    # A quarter of each image, from top to bottom, is road.
    assert 'warning: a: road stands above the horizon in 100 % of the images' in text
    assert f'look at {data / "labels.html"}' in text
    page = (data / 'labels.html').read_text()
    for part in ('road stands above', '25.0', '50.0', 'a 1', 'data:image/jpeg'):
        assert part in page


def test_road_above_the_horizon(data):
    labels = np.full((100, 200), 10, np.uint8)
    labels[60:] = 0
    assert not road_in_the_sky(labels, 50)
    labels[42:] = 0  # the camera looks up a little
    assert not road_in_the_sky(labels, 50)
    labels[10:20, :50] = 1
    assert road_in_the_sky(labels, 50) and not road_in_the_sky(labels, 15)
    assert look_at(find_sequences(data, calibrated=False)[0]) is None and not warnings([])


def test_real_street(data_dir, repository):
    """The shipped network, which has never seen a real street, labels one better than by chance.

    The most frequent class, vegetation, has 36 % of this frame.
    """
    if not (data_dir / 'kitti_street').is_dir():
        pytest.skip(f'{data_dir} has no kitti_street')
    (sequence,) = find_sequences(data_dir / 'kitti_street')
    image = cv2.imread(str(sequence.images[40]))
    labels = Labeller(repository / 'models/perception.onnx', flip=True, threads=1)(image)
    truth = read_map(sequence.semantics_path(40))
    known = (truth != 255) & (labels != 255)
    assert labels.shape == image.shape[:2] and known.mean() > 0.5
    assert (labels == truth)[known].mean() > 0.45

"""Images from bytes: every encoding, raw and compressed; depth and labels come back exactly."""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support.bag_messages import DEPTH, LABELS, TYPES, header
from support.bag_messages import compressed as recorded
from support.bag_messages import image as recorded_image
from support.encodings import ALIASES as TABLE_ALIASES
from support.encodings import TABLE, check, fields, smooth_picture

from depth_ros.bags.messages import COMPRESSED_IMAGE
from depth_ros.core.images import (
    ALIASES,
    ENCODINGS,
    ImageError,
    decode_depth,
    decode_labels,
    decode_rgb,
    encoding_of,
    has_color,
)

RGB = np.array(
    [[[250, 10, 20], [30, 240, 50]], [[60, 70, 230], [0, 128, 255]], [[9, 8, 7], [1, 2, 3]]],
    np.uint8,
)  # 3 rows, 2 columns


def raw(numbers, encoding, **changes):
    """An Image of numbers (rows, W, channels) as they lie in memory."""
    rows = np.ascontiguousarray(numbers)
    return SimpleNamespace(
        **{
            'height': rows.shape[0],
            'width': rows.shape[1],
            'encoding': encoding,
            'is_bigendian': 0,
            'step': rows.nbytes // len(rows),
            'data': rows.tobytes(),
        }
        | changes
    )


# Raw


def test_the_table_of_encodings_is_whole():
    """What is decoded is in the table by which nodes, evaluation and training are tested."""
    assert set(TABLE) == set(ENCODINGS) | set(ALIASES) and ALIASES == TABLE_ALIASES


@pytest.mark.parametrize('encoding', TABLE)
def test_every_encoding(encoding):
    """Also with padded rows, and big-endian."""
    rgb = smooth_picture(64, 48)
    found = decode_rgb(SimpleNamespace(**fields(rgb, encoding)))
    check(found, rgb, encoding)
    for padding, bigendian in ((6, False), (0, True), (4, True)):
        again = decode_rgb(SimpleNamespace(**fields(rgb, encoding, padding, bigendian)))
        np.testing.assert_array_equal(found, again)


def test_16_bits_are_rounded():
    values = np.array([[[0, 128, 129], [32767, 65407, 65535]]], np.uint16)
    np.testing.assert_array_equal(decode_rgb(raw(values, 'rgb16')), [[[0, 0, 1], [127, 255, 255]]])


@pytest.mark.parametrize('dtype, factor', [(np.uint8, 1), (np.uint16, 257)])
@pytest.mark.parametrize('order', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_patterns(order, dtype, factor):
    color = {'r': 200, 'g': 120, 'b': 40}
    tile = np.array([[color[order[0]], color[order[1]]], [color[order[2]], color[order[3]]]])
    mosaic = np.tile(tile, (8, 8)).astype(dtype) * dtype(factor)
    bits = 8 * mosaic.itemsize
    found = decode_rgb(raw(mosaic[..., None], f'bayer_{order}{bits}'))
    assert np.abs(found[2:-2, 2:-2].astype(int) - [200, 120, 40]).max() <= 1


@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuyv', 'yuv422_yuy2'])
def test_yuv_422(encoding):
    # Luma 81, u 90, v 240 is red in BT.601.
    quad = [90, 81, 240, 81] if encoding in ('yuv422', 'uyvy') else [81, 90, 81, 240]
    pixels = np.tile(np.array(quad, np.uint8).reshape(1, 2, 2), (4, 3, 1))
    found = decode_rgb(raw(pixels, encoding))
    assert np.abs(found.astype(int) - [254, 0, 0]).max() <= 2


def test_rgb8_is_not_copied():
    image = raw(RGB, 'rgb8')
    assert np.shares_memory(decode_rgb(image), np.frombuffer(image.data, np.uint8))


@pytest.mark.parametrize(
    'width, height, encoding', [(5, 4, 'yuyv'), (5, 4, 'nv12'), (4, 5, 'nv21')]
)
def test_chroma_of_odd_sizes_is_refused(width, height, encoding):
    image = raw(np.zeros((9, 18), np.uint8), encoding, width=width, height=height)
    with pytest.raises(ImageError, match=f'{width}x{height} pixels, but {encoding} has chroma'):
        decode_rgb(image)


def test_chroma_rows_that_are_missing():
    image = SimpleNamespace(**fields(smooth_picture(64, 48), 'nv12'))
    image.data = image.data[: 64 * 48]
    with pytest.raises(ImageError, match='truncated: 3072 bytes, but 64x48 nv12 .* needs 4608'):
        decode_rgb(image)


@pytest.mark.parametrize(
    'change, reason',
    [
        ({'encoding': 'purple'}, "encoding 'purple' is not supported.*rgb8"),
        ({'encoding': ''}, "encoding '' is not supported"),
        ({'encoding': '32FC1'}, "encoding '32FC1' is not supported"),
        ({'width': 0}, '0x3 pixels'),
        ({'height': 0}, '2x0 pixels'),
        ({'step': 5}, 'step is 5 bytes, but 2 pixels of rgb8 need 6'),
        ({'step': 0}, 'step is 0'),
        ({'height': 4}, 'truncated: 18 bytes.*needs 24'),
        ({'width': 4_000_000_000, 'step': 4_294_967_295}, 'step|truncated'),
    ],
)
def test_broken_images_are_refused_with_cause_and_remedy(change, reason):
    image = raw(RGB, 'rgb8')
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(ImageError, match=reason):
        decode_rgb(image)


def test_the_last_row_needs_no_padding():
    image = SimpleNamespace(**fields(RGB, 'rgb8', 5))
    image.data = image.data[:-5]
    np.testing.assert_array_equal(decode_rgb(image), RGB)


# Compressed


SMOOTH = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_LINEAR)


def compressed(extension, pixels, form='rgb8; jpeg compressed bgr8'):
    ok, data = cv2.imencode(extension, pixels)
    assert ok
    return SimpleNamespace(format=form, data=data.tobytes())


def test_compressed_images():
    png = decode_rgb(compressed('.png', SMOOTH[..., ::-1], 'png'))
    np.testing.assert_array_equal(png, SMOOTH)
    jpeg = decode_rgb(compressed('.jpg', SMOOTH[..., ::-1]))
    assert np.abs(jpeg.astype(int) - SMOOTH).mean() < 4
    mono = decode_rgb(compressed('.jpg', SMOOTH[..., 0], 'mono8; jpeg compressed'))
    assert mono.shape == (48, 64, 3) and (mono[..., 0] == mono[..., 2]).all()


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_truncated_compressed_images_are_refused(extension):
    image = compressed(extension, SMOOTH)
    image.data = image.data[: len(image.data) // 2]
    with pytest.raises(ImageError, match='truncated'):
        decode_rgb(image)


def test_other_compressed_data_is_refused():
    with pytest.raises(ImageError, match='empty'):
        decode_rgb(SimpleNamespace(format='jpeg', data=b''))
    with pytest.raises(ImageError, match='neither JPEG nor PNG'):
        decode_rgb(SimpleNamespace(format='jpeg', data=b'x' * 100))
    with pytest.raises(ImageError, match='depth image'):
        decode_rgb(compressed('.png', SMOOTH, '16UC1; compressedDepth png'))


def mosaic(rgb, order, scale=1):
    """What a sensor with a Bayer pattern sees of a picture (H, W, 3)."""
    seen = np.empty(rgb.shape[:2], np.uint8 if scale == 1 else np.uint16)
    for k, color in enumerate(order):
        seen[k // 2 :: 2, k % 2 :: 2] = rgb[k // 2 :: 2, k % 2 :: 2, 'rgb'.index(color)]
    return seen * seen.dtype.type(scale)


@pytest.mark.parametrize('order', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize(
    'extension, scale, channels', [('.jpg', 1, 1), ('.png', 1, 1), ('.png', 257, 1), ('.jpg', 1, 3)]
)
def test_a_compressed_bayer_pattern_gets_its_colours(order, extension, scale, channels):
    """As image_transport compresses it: the encoding is before the semicolon."""
    rgb = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_LINEAR)
    pixels = mosaic(rgb, order, scale)
    pixels = pixels if channels == 1 else np.repeat(pixels[..., None], 3, 2)
    name = f'bayer_{order}{8 if scale == 1 else 16}'
    message = compressed(extension, pixels, f'{name}; {extension[1:]} compressed ')
    assert encoding_of(message) == name and has_color(name)
    found = decode_rgb(message).astype(int)
    raw_found = decode_rgb(raw(pixels if channels == 1 else pixels[..., :1], name))
    assert np.abs(found - raw_found).mean() < (8 if extension == '.jpg' else 1e-9)
    # A driver may have made colours of it.
    colours = compressed('.png', SMOOTH[..., ::-1], f'{name}; png compressed bgr8')
    np.testing.assert_array_equal(decode_rgb(colours), SMOOTH)


def test_depth_compressed_as_a_picture_is_depth():
    millimetres = (DEPTH * 1000).astype(np.uint16)
    message = recorded(millimetres, '.png', '16UC1; png compressed ')
    assert encoding_of(message) == '16UC1'
    np.testing.assert_allclose(decode_depth(message), DEPTH, atol=1.01e-3)
    with pytest.raises(ImageError, match='depth image: choose'):
        decode_rgb(message)
    for form in ('16UC1; jpeg compressed ', '32FC1; png compressed '):
        with pytest.raises(ImageError):
            decode_depth(recorded(millimetres.astype(np.uint8), '.jpg', form))


def test_class_ids_in_jpeg_are_refused():
    with pytest.raises(ImageError, match='JPEG, which changes the values'):
        decode_labels(recorded(LABELS, '.jpg', 'mono8; jpeg compressed '))


def test_padding_of_a_cameras_buffer():
    for extension in ('.jpg', '.png'):
        image = compressed(extension, SMOOTH[..., ::-1], extension[1:])
        whole = decode_rgb(image)
        image.data += bytes(4096)
        np.testing.assert_array_equal(decode_rgb(image), whole)


# Depth and labels


def test_depth_in_millimetres_and_metres():
    millimetres = (DEPTH * 1000).astype(np.uint16)
    millimetres[0, 0] = 0
    lead = struct.pack('<iff', 0, 0, 0)
    for message in (
        recorded_image(millimetres, '16UC1', padding=2),
        recorded(millimetres, '.png', '16UC1; compressedDepth png', lead=lead),
        recorded(millimetres, '.png', '16UC1; compressedDepth', lead=lead),
    ):
        depth = decode_depth(message)
        assert depth.dtype == np.float32 and np.isnan(depth[0, 0])
        assert np.abs(depth - DEPTH).ravel()[1:].max() < 1.01e-3
    metres = DEPTH.copy()
    metres[0, :3] = 0, np.inf, np.nan
    decoded = decode_depth(recorded_image(metres, '32FC1'))
    assert np.isnan(decoded[0, :3]).all() and np.array_equal(decoded[1:], DEPTH[1:])


def test_quantised_float_depth_follows_the_transport_plugin():
    # compressed_depth_image_transport: code = A / depth + B, 0 = invalid.
    a, b = 100.0 * 101.0, 1.0 - 101.0
    codes = np.round(a / DEPTH + b).astype(np.uint16)
    codes[2, 3] = 0
    lead = struct.pack('<iff', 0, a, b)
    depth = decode_depth(recorded(codes, '.png', '32FC1; compressedDepth png', lead))
    assert np.isnan(depth[2, 3])
    valid = np.isfinite(depth)
    assert valid.sum() == DEPTH.size - 1
    # Half a code step in inverse depth.
    assert np.all(np.abs(depth - DEPTH)[valid] <= 0.51 * DEPTH[valid] ** 2 / a * 1.02)


@pytest.mark.parametrize('pixels', [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.uint16)])
def test_compressed_depth_of_another_kind(pixels):
    message = recorded(pixels, '.png', '16UC1; compressedDepth png', bytes(12))
    with pytest.raises(ValueError, match='not uint16'):
        decode_depth(message)
    message.data = message.data[:7]
    with pytest.raises(ValueError, match='cannot be decoded'):
        decode_depth(message)


def test_labels():
    for message in (
        recorded_image(LABELS, 'mono8', padding=3),
        recorded(LABELS, '.png', 'mono8; png'),
    ):
        assert np.array_equal(decode_labels(message), LABELS)
    with pytest.raises(ValueError, match='publish mono8'):
        decode_labels(recorded(RGB, '.png', 'png'))


def test_big_endian_depth():
    message = recorded_image(DEPTH.astype('>f4'), '32FC1')
    message.is_bigendian = 1
    assert np.array_equal(decode_depth(message), DEPTH)


def test_bad_pictures():
    short = recorded_image(DEPTH, '32FC1')
    short.data = short.data[:-1]
    with pytest.raises(
        ValueError, match='truncated: 191 bytes, but 8x6 32FC1 with step 32 needs 192'
    ):
        decode_depth(short)
    empty = TYPES[COMPRESSED_IMAGE](header(1), 'mono8; png', np.zeros(9, np.uint8))
    with pytest.raises(ValueError, match='9 bytes cannot be decoded'):
        decode_labels(empty)
    with pytest.raises(ValueError, match="'mono16' is not supported"):
        decode_depth(recorded_image(LABELS.astype(np.uint16), 'mono16'))
    with pytest.raises(ValueError, match="'rgb8' is not supported"):
        decode_labels(recorded_image(RGB, 'rgb8'))


# What an encoding says


def test_color_by_encoding():
    colored = {name for name in TABLE if has_color(name)}
    assert set(TABLE) - colored == {'mono8', 'mono16', '8UC1', '16UC1'}
    assert has_color('jpeg') and has_color('png')
    assert not has_color('32FC1') and not has_color('purple')


def test_encoding_of_messages():
    assert encoding_of(raw(RGB, 'rgb8')) == 'rgb8'
    assert encoding_of(compressed('.png', SMOOTH, 'rgb8; png compressed bgr8')) == 'rgb8'
    assert encoding_of(compressed('.png', SMOOTH, 'png')) == 'png'
    assert encoding_of(compressed('.jpg', SMOOTH)) == 'rgb8'
    assert encoding_of(compressed('.jpg', SMOOTH, 'jpeg')) == 'jpeg'
    assert encoding_of(compressed('.jpg', SMOOTH[..., 0], 'mono8; jpeg compressed ')) == 'jpeg'
    assert encoding_of(compressed('.png', SMOOTH, '16UC1; compressedDepth png')) == '16UC1'

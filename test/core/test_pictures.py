"""Pictures of JPEG and PNG files: whole, padded, cut, turned."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from depth_ros.core.pictures import (
    CutShortError,
    ImageError,
    decode_picture,
    orientation,
    picture_size,
    turned,
)

RNG = np.random.default_rng(0)
PICTURE = cv2.resize(RNG.integers(0, 255, (12, 20, 3)).astype(np.uint8), (317, 190))
EOI = b'\xff\xd9'
KINDS = {
    'baseline': [],
    'progressive': [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    'restarts': [cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
    'full colour': [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    'optimised': [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
}


def jpeg(picture=PICTURE, how=()):
    return cv2.imencode('.jpg', picture, list(how))[1].tobytes()


def png(picture=PICTURE):
    return cv2.imencode('.png', picture)[1].tobytes()


FILES = {name: jpeg(how=how) for name, how in KINDS.items()} | {
    'grey': jpeg(PICTURE[..., 0]),
    'png': png(),
}


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize(
    'trailer',
    [
        bytes(1),
        bytes(5000),
        b'\0\0\0\x18ftypmp42' + RNG.integers(0, 255, 9000).astype(np.uint8).tobytes(),
        jpeg(PICTURE[::-1]),
        b'\xff' * 70,
    ],
    ids=['zero', 'zeros', 'film', 'picture', 'ones'],
)
def test_what_stands_behind_the_end_does_not_matter(name, trailer):
    data = FILES[name]
    np.testing.assert_array_equal(decode_picture(data + trailer), decode_picture(data))


@pytest.mark.parametrize('name', FILES)
def test_a_missing_end_marker_does_not_matter(name):
    data = FILES[name]
    bare = data[:-12] if name == 'png' else data[:-2]
    for padding in (0, 4000):
        again = decode_picture(bare + (b'' if name == 'png' else bytes(padding)))
        np.testing.assert_array_equal(again, decode_picture(data))


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('share', [0.02, 0.5, 0.9])
def test_a_picture_that_is_cut_short(name, share):
    """Also with the padding of a buffer, or the next picture, behind the cut."""
    data = FILES[name]
    cut = data[: int(len(data) * share)]
    for more in (b'', bytes(20000), data):
        with pytest.raises(ImageError):
            decode_picture(cut + more)


@pytest.mark.parametrize('name', ['baseline', 'restarts', 'full colour', 'optimised', 'grey'])
@pytest.mark.parametrize('share', [0.5, 0.9])
def test_a_cut_that_an_end_marker_hides(name, share):
    data = FILES[name]
    with pytest.raises(CutShortError, match='cut short'):
        decode_picture(data[: int(len(data) * share)] + EOI)


@pytest.mark.parametrize('how', KINDS.values(), ids=KINDS)
def test_a_picture_that_ends_in_the_grey_of_missing_pixels_is_whole(how):
    half = PICTURE.copy()
    half[100:] = 128
    for picture in (half, np.full((96, 320, 3), 128, np.uint8)):
        for end in (None, -2):
            assert decode_picture(jpeg(picture, how)[:end]).shape == picture.shape


def test_other_data():
    with pytest.raises(ImageError, match='empty'):
        decode_picture(b'')
    for data in (b'x' * 100, b'\xff\xd8', b'\xff\xd8\xff\xe1\xff\xff', b'\x89PNG\r\n\x1a\n'):
        with pytest.raises(ImageError):
            decode_picture(data)
        with pytest.raises(ImageError):
            picture_size(data)
    bmp = cv2.imencode('.bmp', PICTURE)[1].tobytes()
    np.testing.assert_array_equal(decode_picture(bmp), PICTURE)


def noted(number, form='JPEG'):
    """The picture's bytes with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x112] = number
    stream = io.BytesIO()
    Image.fromarray(PICTURE[..., ::-1]).save(stream, form, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize('form', ['JPEG', 'PNG'])
@pytest.mark.parametrize('number', range(1, 9))
def test_orientation(number, form):
    """Stored pixels by default; upright as OpenCV, phones and browsers show them."""
    data = noted(number, form)
    stored = decode_picture(data)
    assert orientation(data) == number and orientation(noted(1, form)) == 1
    assert stored.shape == PICTURE.shape
    np.testing.assert_array_equal(stored, decode_picture(noted(1, form)))
    upright = decode_picture(data, upright=True)
    np.testing.assert_array_equal(
        upright, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    )
    np.testing.assert_array_equal(upright, turned(stored, number))
    for turn, image in ((False, stored), (True, upright)):
        assert picture_size(data, upright=turn) == image.shape[1::-1]


@pytest.mark.parametrize('number', [0, 9, 65535])
def test_an_orientation_that_is_none(number):
    assert orientation(noted(number)) == 1


def test_sizes_by_the_header_alone():
    for data in FILES.values():
        assert picture_size(data) == (317, 190)
        assert picture_size(data[: len(data) // 2]) == (317, 190)

"""Pictures and films as people bring them: turned, out of order, of odd sizes and frame rates."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from support.prepared import command, picture, prepare, write

from train.data.pictures import common_size, number_jumps
from train.data.readers.folder import folder_sources
from train.data.sequences import (
    DataError,
    check_camera,
    find_sequences,
    read_picture,
    read_sequence,
    scaled_intrinsics,
)

K = np.array([[100.0, 0, 64], [0, 100, 32], [0, 0, 1]])


def photo(path, image, orientation):
    """A JPEG with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(image[..., ::-1]).save(path, exif=exif, quality=95)


# EXIF orientation


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_photos_alone_are_turned_upright(tmp_path, orientation):
    """As they are seen on the phone; size and pixels agree."""
    turns = {1: 0, 3: 2, 6: 1, 8: 3}
    for i in range(6):
        stored = np.rot90(picture(8 * i), turns[orientation])
        photo(tmp_path / f'in/IMG_{i:04d}.jpg', stored, orientation)
    [source] = folder_sources(tmp_path / 'in')
    assert source.size == picture(0).shape[1::-1] and not source.warnings
    assert ('turned upright' in source.facts) == (orientation != 1)
    _, read = next(source.pictures([2]))
    assert np.abs(read().astype(int) - picture(16)).mean() < 3


@pytest.mark.parametrize('orientation', [3, 6])
def test_pictures_with_depth_are_taken_as_their_pixels_lie(tmp_path, orientation):
    folder = tmp_path / 'drive'
    for i in range(4):
        photo(folder / f'images/{i}.jpg', picture(4 * i), orientation)
        write(folder / f'depth/{i}.png', np.full(picture(0).shape[:2], 1000, np.uint16))
    height, width = picture(0).shape[:2]
    np.savetxt(
        folder / 'intrinsics.txt', [[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]
    )
    sequence = read_sequence(folder)
    read = read_picture(sequence.images[1])
    assert read.shape == picture(0).shape and np.abs(read.astype(int) - picture(4)).mean() < 3
    [source] = folder_sources(folder)
    assert source.size == (width, height) == common_size(sequence.images)
    [said] = source.warnings
    assert 'EXIF orientation, which is not followed' in said and 'images' in said


# Order


NAMES = [f'frame{i}' for i in (1, 2, 9, 10, 11, 24, 100)]


def test_numbers_in_names_count_as_numbers(tmp_path):
    for name in reversed(NAMES):
        write(tmp_path / 'in' / f'{name}.png', picture(0))
        write(tmp_path / 'set' / name / 'images/0.png', picture(0))
        np.savetxt(tmp_path / 'set' / name / 'intrinsics.txt', K)
    [source] = folder_sources(tmp_path / 'in')
    assert source.stems == NAMES
    assert [s.folder.name for s in find_sequences(tmp_path / 'set')] == NAMES


def test_times_as_names(tmp_path):
    """As Python prints them, of any number of decimals."""
    names = ['9.75', '10.0', '10.125', '10.25', '10.5']
    for name in names:
        write(tmp_path / f'{name}.png', picture(0))
    [source] = folder_sources(tmp_path)
    assert source.stems == names and not source.warnings[1:]


def test_pictures_of_one_stem_and_hidden_ones(tmp_path):
    for name in ('1.png', '2.png', '._1.png'):
        write(tmp_path / name, picture(0))
    [source] = folder_sources(tmp_path)
    assert source.stems == ['1', '2']
    write(tmp_path / '1.jpg', picture(0))
    with pytest.raises(DataError, match="1.jpg' and '1.png' have one name but for the suffix"):
        folder_sources(tmp_path)


@pytest.mark.parametrize(
    'names, said',
    [
        ([f'{i:06d}' for i in range(9)], None),
        ([f'{i:06d}' for i in range(0, 90, 10)], None),  # every tenth
        (['a', 'b', 'c', 'd'], None),
        ([f'frame{i}' for i in (1, 2, 3, 40, 41, 42)], 'in 1 places, by most from frame3.png'),
        ([f'{1_700_000_000_000_000_000 + i * 10**8}' for i in (0, 1, 2, 9, 10)], 'in 1 places'),
    ],
)
def test_jumps_of_numbers(tmp_path, names, said):
    found = number_jumps([tmp_path / f'{name}.png' for name in names])
    assert (said in found[0] and len(found) == 1) if said else not found


# Size


def test_most_pictures_decide_about_the_size(tmp_path, capsys):
    for i in range(12):
        image = picture(4 * i)
        write(tmp_path / 'in' / f'{i:04d}.png', image[:48] if i in (0, 7) else image)
    sequence = prepare('folder', tmp_path / 'in', tmp_path / 'out', '--min-motion', 0)['in']
    assert [p.stem for p in sequence.images] == [f'{i:04d}' for i in range(12) if i not in (0, 7)]
    text = capsys.readouterr().out
    assert "frame '0000' has" in text and "frame '0007' has" in text and '2 damaged' in text


# Intrinsics


@pytest.mark.parametrize(
    'numbers, reason',
    [
        ((192, -192, 159.5, 47.5), 'must be positive'),
        ((0, 0, 0, 0), 'must be positive'),
        ((0.6, 2.0, 0.5, 0.5), 'divided by the size'),
        ((192, 192, 640, 360), 'outside of the image.*another resolution'),
        ((159.5, 47.5, 192, 192), 'outside of the image.*swapped'),
        ((15, 15, 159.5, 47.5), 'field of view of 169 by'),
        ((9000, 9000, 159.5, 47.5), 'field of view of 2 by'),
        ((192, 19, 159.5, 47.5), 'times as high as wide'),
    ],
)
def test_intrinsics_that_cannot_be(tmp_path, numbers, reason):
    """Refused by prepare for options and files, and by what reads a prepared sequence."""
    for i in range(3):
        write(tmp_path / 'in' / f'{i}.png', np.zeros((96, 320, 3), np.uint8))
        write(tmp_path / 'drive/images' / f'{i}.png', np.zeros((96, 320, 3), np.uint8))
    fx, fy, cx, cy = numbers
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], float)
    with pytest.raises(DataError, match=reason):
        command(tmp_path / 'in', '--out', tmp_path / 'out', '--intrinsics', *numbers)
    assert not (tmp_path / 'out').exists()
    np.savetxt(tmp_path / 'drive/intrinsics.txt', matrix)
    with pytest.raises(DataError, match=f'{reason}|no camera matrix'):
        folder_sources(tmp_path / 'drive')
    if min(fx, fy) > 0 and fx / fy < 9:  # else of another aspect ratio before it was prepared
        with pytest.raises(DataError, match=reason):
            scaled_intrinsics(read_sequence(tmp_path / 'drive'), 160, 48)


def test_intrinsics_that_are_odd():
    def odd(fx, fy, cx, cy, square=True):
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        return ' '.join(check_camera(matrix, (640, 480), 'it', square))

    assert not odd(500, 500, 320, 240)
    assert 'field of view is only' in odd(3000, 3000, 320, 240)
    assert 'most are square' in odd(500, 700, 320, 240) and not odd(500, 700, 320, 240, False)
    assert 'far from the centre' in odd(500, 500, 100, 240)
    assert not check_camera(np.full((3, 3), np.nan), (640, 480), 'unknown')


# Films


def film(path, deltas):
    """A film whose frames are shown for so many 15360ths of a second; its own content."""
    whole = path.with_name(f'steady_{path.name}')
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*'mp4v'), 30, (128, 64))
    for i in range(len(deltas)):
        writer.write(picture(4 * i)[:64, :128])
    writer.release()

    def table(kind, body):
        if kind == b'stts':
            rows = b''.join(struct.pack('>II', 1, delta) for delta in deltas)
            return struct.pack('>II', 0, len(deltas)) + rows
        if kind == b'mdhd':
            return body[:16] + struct.pack('>I', sum(deltas)) + body[20:]
        return None if kind == b'edts' else body

    path.write_bytes(_edited(whole.read_bytes(), table))
    whole.unlink()
    return path


def _edited(data, edit):
    """An mp4 with the contents of its boxes edited; `edit` returns None for one to leave out."""
    out, at = b'', 0
    while at < len(data):
        size, kind = struct.unpack('>I4s', data[at : at + 8])
        head = 16 if size == 1 else 8
        if size == 1:
            size = struct.unpack('>Q', data[at + 8 : at + 16])[0]
        body = data[at + head : at + size]
        if kind in (b'moov', b'trak', b'mdia', b'minf', b'stbl'):
            body = _edited(body, edit)
        elif kind != b'mdat':
            body = edit(kind, body)
        if kind == b'mdat':
            out += data[at : at + size]
        elif body is not None:
            out += struct.pack('>I4s', len(body) + 8, kind) + body
        at += size
    return out


def test_a_film_of_variable_frame_rate(tmp_path):
    """Frames are shown when the film says, and --rate thins by that."""
    path = film(tmp_path / 'walk.mp4', [512] * 30 + [1536] * 30)
    [source] = folder_sources(path)
    assert len(source.stems) == 60 and source.facts['rate'] == '10.0 to 30.0 Hz'
    assert source.times is not None
    np.testing.assert_allclose(source.times[[0, 3, 30, 40, 59]], [0, 0.1, 1, 2, 3.9], atol=2e-3)
    assert len(source.at_most(10).stems) == 40
    [steady] = folder_sources(film(tmp_path / 'steady.mp4', [512] * 20))
    assert steady.facts['rate'] == '30.0 Hz' and steady.numbers is None and not steady.warnings
    np.testing.assert_allclose(steady.times, np.arange(20) / 30, atol=2e-3)


def test_a_pause_of_a_film_is_no_motion(tmp_path):
    [source] = folder_sources(film(tmp_path / 'walk.mp4', [512] * 10 + [30720] + [512] * 10))
    assert '1 pauses without pictures, the longest 2.0 s' in source.warnings[0]
    assert source.numbers.tolist() == [*range(11), *range(12, 22)]

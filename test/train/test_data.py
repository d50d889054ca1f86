"""Samples: what is in them, what augmentation does to them, and in which order they come."""

import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from depth_ros.core.camera import ImageFit, Intrinsics
from train.data.augment import Augmentation
from train.data.checks import CACHE, check_sequences
from train.data.dataset import FrameDataset, StepSampler
from train.data.sequences import (
    DataError,
    find_sequences,
    read_image,
    read_sequence,
)

WIDTH, HEIGHT, FRAMES = 64, 32, 8
MATRIX = np.array([[40.0, 0, 30], [0, 44, 17], [0, 0, 1]])


@pytest.fixture
def root(tmp_path):
    """One sequence; frame i is grey 20 i, with labels i % 19 and depth of i + 1 m."""
    for name in ('images', 'depth', 'semantics'):
        (tmp_path / name).mkdir()
    flat = np.ones((HEIGHT, WIDTH), np.uint8)
    for i in range(FRAMES):
        cv2.imwrite(str(tmp_path / f'images/{i:03d}.png'), cv2.merge([flat * 20 * i] * 3))
        cv2.imwrite(str(tmp_path / f'semantics/{i:03d}.png'), flat * (i % 19))
        cv2.imwrite(str(tmp_path / f'depth/{i:03d}.png'), flat.astype(np.uint16) * 1000 * (i + 1))
    np.savetxt(tmp_path / 'intrinsics.txt', MATRIX)
    return tmp_path


def dataset(root, **options):
    return FrameDataset(root, WIDTH, HEIGHT, **options)


def shown(item):
    """Which frames a sample's images are."""
    return (item['images'][:, 0, 0, 0] // 20).tolist()


# Samples


@pytest.mark.parametrize(
    ('views', 'first', 'count'), [(2, [0, 1], 7), (3, [0, 1, 2], 6), (5, [0, 1, 2, 3, 4], 4)]
)
def test_a_sample_is_successive_frames_around_its_target(root, views, first, count):
    data = dataset(root, views=views)
    assert len(data) == count
    assert [shown(data[i]) for i in range(count)] == [[n + i for n in first] for i in range(count)]
    item = data[0]
    target = views // 2
    assert item['images'].shape == (views, 3, HEIGHT, WIDTH)
    assert item['images'].dtype == torch.uint8
    assert item['inputs'] is item['images']
    assert item['labels'].dtype == torch.int64 and (item['labels'] == target).all()
    assert item['depth'].dtype == torch.float32
    torch.testing.assert_close(item['depth'], torch.full((HEIGHT, WIDTH), target + 1.0))
    np.testing.assert_allclose(item['intrinsics'], MATRIX, rtol=1e-7)
    assert item['distance'].shape == (views - 1,) and item['distance'].isnan().all()


def test_what_is_unknown_says_so(root):
    (root / 'intrinsics.txt').write_text('unknown\n')
    (root / 'semantics/001.png').unlink()
    (root / 'depth/001.png').unlink()
    item = dataset(root)[0]
    assert item['intrinsics'].isnan().all()
    assert (item['labels'] == 255).all() and (item['depth'] == 0).all()


def test_distances_come_from_measurements_and_not_from_ground_truth(root):
    poses = np.tile(np.eye(4)[:3].ravel(), (FRAMES, 1))
    poses[:, 3] = np.arange(FRAMES)
    np.savetxt(root / 'poses.txt', poses)
    assert dataset(root)[0]['distance'].isnan().all()
    # The integral of the speed: 0.1 s from 2 to 4 m/s, then 0.3 s from 4 to 8 m/s.
    np.savetxt(root / 'times.txt', [0, 0.1, 0.4, 1, 2, 3, 4, 5])
    np.savetxt(root / 'speed.txt', [2, 4, 8, 8, 8, np.nan, 8, 8])
    data = dataset(root, views=5)
    torch.testing.assert_close(data[0]['distance'], torch.tensor([2.1, 1.8, 4.8, 12.8]))
    torch.testing.assert_close(dataset(root)[0]['distance'], torch.tensor([0.3, 1.8]))
    assert dataset(root)[4]['distance'].isnan().tolist() == [True, True]
    assert dataset(root)[3]['distance'].isnan().tolist() == [False, True]
    # Odometry wins: straight distances between positions.
    poses[:, 3], poses[:, 7] = 3 * np.arange(FRAMES), 4 * np.arange(FRAMES) % 8
    poses[7] = np.nan
    np.savetxt(root / 'odometry.txt', poses)
    torch.testing.assert_close(dataset(root)[0]['distance'], torch.tensor([5.0, 5.0]))
    torch.testing.assert_close(data[0]['distance'], torch.tensor([2.1, 1.8, 4.8, 12.8]))
    # Where it has a gap, the speed tells: 8 m/s for a second.
    torch.testing.assert_close(dataset(root)[5]['distance'], torch.tensor([5.0, 8.0]))


def test_depth_in_another_unit_and_size(root):
    (root / 'depth_scale.txt').write_text('0.00390625\n')
    depth = np.zeros((HEIGHT * 2, WIDTH * 2), np.uint16)
    depth[:, WIDTH:] = 256 * 70
    cv2.imwrite(str(root / 'depth/001.png'), depth)
    depth = dataset(root)[0]['depth']
    assert (depth[:, : WIDTH // 2] == 0).all() and (depth[:, WIDTH // 2 :] == 70).all()


def test_intrinsics_follow_the_size(root):
    """By hand: half the size; the centre of pixel u goes to (u + 0.5) / 2 - 0.5."""
    matrix = FrameDataset(root, WIDTH // 2, HEIGHT // 4)[0]['intrinsics']
    np.testing.assert_allclose(matrix, [[20, 0, 14.75], [0, 11, 3.875], [0, 0, 1]])


def test_images_are_resized_as_the_nodes_do(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (96, 300, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    for width, height in ((75, 24), (100, 40), (150, 48), (300, 96)):
        model = Intrinsics(50, 50, width / 2, height / 2, width, height)
        wanted = np.empty((height, width, 3), np.uint8)
        ImageFit.create(Intrinsics(200, 200, 150, 48, 300, 96), model).to_network(image, wanted)
        found = read_image(tmp_path / 'image.png', width, height)
        assert np.array_equal(found[..., ::-1], wanted), (width, height)


def test_gaps(root):
    data = dataset(root, views=3, max_gap=3)

    def gaps(index):
        return {tuple(shown(data[index, seed])) for seed in range(40)}

    assert gaps(0) == {(0, 1, 2)}
    assert gaps(1) == {(1, 2, 3), (0, 2, 4)}
    assert gaps(2) == {(2, 3, 4), (1, 3, 5), (0, 3, 6)}
    assert shown(data[2]) == shown(data[2, 0])


def test_a_selection_of_frames(root):
    """Numbers 10 11 12 | 20 21 22 23 24; targets are 11, 22 and, in vain, 12 and 20."""
    numbers = [10, 11, 12, 20, 21, 22, 23, 24]
    np.savetxt(root / 'frames.txt', [(n, n in (11, 12, 20, 22)) for n in numbers], fmt='%d')
    data = dataset(root)
    assert [shown(data[i]) for i in range(len(data))] == [[0, 1, 2], [4, 5, 6]]
    data = dataset(root, max_gap=2)
    assert {tuple(shown(data[1, seed])) for seed in range(20)} == {(4, 5, 6), (3, 5, 7)}
    assert [shown(i) for i in dataset(root, views=5)] == [[3, 4, 5, 6, 7]]


@pytest.mark.parametrize(
    ('options', 'message'), [({'views': 4}, 'views must be'), ({'max_gap': 0}, 'max_gap must be')]
)
def test_bad_options(root, options, message):
    with pytest.raises(ValueError, match=message):
        dataset(root, **options)


def test_too_few_frames(root):
    for path in sorted((root / 'images').iterdir())[2:]:
        path.unlink()
    assert len(dataset(root, views=2)) == 1
    with pytest.raises(DataError, match='3 successive images'):
        dataset(root)


def test_maps_of_another_kind_are_refused(root):
    cv2.imwrite(str(root / 'depth/001.png'), np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(DataError, match='001.png.*uint8, must be uint16'):
        dataset(root)[0]


def test_networks_see_the_change_and_losses_do_not(root):
    plain = dataset(root)[2]
    data = dataset(root, augment=Augmentation(flip=0, jitter=1))
    item = data[2, 5]
    assert torch.equal(item['images'], plain['images'])
    assert not torch.equal(item['inputs'], plain['images'])
    # Half of the samples are changed, half are mirrored.
    data = dataset(root, augment=Augmentation())
    items = [data[2, seed] for seed in range(200)]
    assert 60 < sum(not torch.equal(i['inputs'], i['images']) for i in items) < 140
    mirrored = WIDTH - 1 - 30
    assert 60 < sum(float(i['intrinsics'][0, 2]) == mirrored for i in items) < 140


# Determinism and order

EVERYTHING = Augmentation(scale=1.2, night=0.5, rain=0.5, blur=0.5)


def test_index_and_seed_decide_a_sample(root):
    data = dataset(root, max_gap=2, augment=EVERYTHING)
    torch.manual_seed(1)
    first = data[3, 12345]
    data[1, 7]
    torch.manual_seed(2)
    again = dataset(root, max_gap=2, augment=EVERYTHING)[3, 12345]
    assert all(torch.equal(first[k].nan_to_num(), again[k].nan_to_num()) for k in first)
    assert any(not torch.equal(first['inputs'], data[3, seed]['inputs']) for seed in range(4))


def test_loader_processes_give_the_same_samples(root):
    data = dataset(root, max_gap=2, augment=EVERYTHING)
    sampler = StepSampler(len(data), 2, 3, seed=4)
    batches = list(DataLoader(data, batch_sampler=sampler, num_workers=1))
    wanted = [default_collate([data[key] for key in step]) for step in sampler]
    assert len(batches) == 3
    for batch, want in zip(batches, wanted, strict=True):
        assert torch.equal(batch['inputs'], want['inputs'])
        assert batch['distance'].shape == (2, 2)


def test_every_epoch_has_every_sample_once_in_another_order():
    steps = list(StepSampler(7, 3, 14, seed=1))
    indices = [index for step in steps for index, _ in step]
    epochs = [indices[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 3
    seeds = [seed for step in steps for _, seed in step]
    assert len(set(seeds)) == len(seeds)
    assert steps == list(StepSampler(7, 3, 14, seed=1))
    assert steps != list(StepSampler(7, 3, 14, seed=2))


def test_processes_share_the_batch_of_one():
    whole = list(StepSampler(11, 6, 9, seed=3))
    parts = [list(StepSampler(11, 2, 9, seed=3, rank=rank, world_size=3)) for rank in range(3)]
    assert whole == [a + b + c for a, b, c in zip(*parts, strict=True)]


def test_a_resumed_training_sees_what_it_would_have_seen():
    whole = StepSampler(5, 2, 10, seed=3)
    resumed = StepSampler(5, 2, 10, seed=3, start_step=6)
    assert list(resumed) == list(whole)[6:]
    assert len(whole) == len(resumed) == 10


@pytest.mark.parametrize('values', [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_to_sample(values):
    with pytest.raises(ValueError, match='at least one'):
        StepSampler(*values, seed=0)
    with pytest.raises(ValueError, match='rank 2'):
        StepSampler(1, 1, 1, seed=0, rank=2, world_size=2)


# Missing and damaged files


def test_a_sound_data_set_has_nothing_to_report(root, capsys):
    assert check_sequences(root) == set()
    assert capsys.readouterr().out == ''


def test_damaged_files_are_listed_and_left_out(root, capsys):
    (root / 'images/001.png').write_bytes(b'')
    for name in ('images/005.png', 'depth/003.png'):
        (root / name).write_bytes((root / name).read_bytes()[:-20])
    (root / 'semantics/003.png').write_text('hello, this is no picture')
    bad = check_sequences(root)
    assert bad == {
        root / n for n in ('images/001.png', 'images/005.png', 'depth/003.png', 'semantics/003.png')
    }
    text = capsys.readouterr().out
    assert 'left out 2 of 8 images, 1 depth maps and 1 label images' in text
    assert "images/001.png' is damaged: empty" in text
    assert "images/005.png' is damaged: cut short" in text
    assert "semantics/003.png' is damaged" in text
    data = dataset(root, exclude=bad)
    assert [shown(item) for item in data] == [[2, 3, 4]]
    item = data[0]
    assert (item['depth'] == 0).all() and (item['labels'] == 255).all()


def test_files_that_are_damaged_inside_are_found(root, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(root / 'images/000.png'), noise)
    data = bytearray((root / 'images/000.png').read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    (root / 'images/000.png').write_bytes(data)
    assert check_sequences(root) == {root / 'images/000.png'}
    assert "images/000.png' is damaged" in capsys.readouterr().out
    # The first image is the one that tells the size.
    data = dataset(root, exclude=check_sequences(root))
    assert shown(data[0]) == [1, 2, 3]
    assert torch.isfinite(data[0]['intrinsics']).all()


def test_maps_of_another_kind_are_left_out(root, capsys):
    flat = np.ones((HEIGHT, WIDTH), np.uint8)
    cv2.imwrite(str(root / 'semantics/001.png'), cv2.merge([flat] * 3))
    cv2.imwrite(str(root / 'semantics/002.png'), flat.astype(np.uint16))
    cv2.imwrite(str(root / 'depth/003.png'), flat)
    bad = check_sequences(root)
    assert bad == {root / n for n in ('semantics/001.png', 'semantics/002.png', 'depth/003.png')}
    text = capsys.readouterr().out
    assert 'left out 0 of 8 images, 1 depth maps and 2 label images' in text
    assert "semantics/001.png' has 3 channels, must have one" in text
    assert "semantics/002.png' has values of uint16, must be uint8" in text
    assert "depth/003.png' has values of uint8, must be uint16" in text
    assert len([*dataset(root, exclude=bad)]) == FRAMES - 2


def test_frames_without_maps_are_counted(root, capsys):
    for name in ('semantics/001.png', 'semantics/002.png', 'depth/005.png'):
        (root / name).unlink()
    for _ in range(2):  # nothing is to be read the second time
        assert check_sequences(root) == set()
        text = capsys.readouterr().out
        assert '2 of 8 frames have no label image' in text
        assert '1 of 8 frames have no depth map' in text
    for path in (root / 'semantics').iterdir():
        path.unlink()
    (root / 'semantics').rmdir()
    check_sequences(root)
    assert 'label' not in capsys.readouterr().out


def test_links_to_nowhere_are_left_out(root, capsys):
    (root / 'images/003.png').unlink()
    (root / 'images/003.png').symlink_to(root / 'elsewhere.png')
    assert check_sequences(root) == {root / 'images/003.png'}
    text = capsys.readouterr().out
    assert 'left out 1 of 8 images' in text and "images/003.png' is missing" in text


def test_deleted_images_are_named(root, tmp_path_factory):
    parent = tmp_path_factory.mktemp('set')
    for name in 'abc':
        shutil.copytree(root, parent / name)
    for name, lost in (('a', '004.png'), ('c', '007.png')):  # the last leaves no gap
        np.savetxt(parent / name / 'times.txt', np.arange(FRAMES) / 10)
        (parent / name / 'images' / lost).unlink()
    with pytest.raises(DataError, match='2 of 3 sequences cannot be used') as error:
        check_sequences(parent)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "a/images' has 7 images, but" in lines[1] and "times.txt' has 8 rows" in lines[1]
    assert '1 images are missing (by the numbering: 004.png): restore' in lines[1]
    assert '1 images are missing: restore' in lines[2] and 'prepare the sequence' in lines[2]


def test_images_of_another_size_are_left_out(root, capsys):
    """Most decide, not the first."""
    odd = {root / f'images/{name}.png' for name in ('000', '004')}
    for path in odd:
        cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    assert check_sequences(root) == odd
    assert "004.png' has 8x8 pixels, most of its sequence have 64x32" in capsys.readouterr().out


def test_a_second_check_looks_only_at_what_changed(root):
    assert check_sequences(root) == set()
    path = root / 'images/002.png'
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b'x' * path.stat().st_size)
    os.utime(path, ns=times)
    assert check_sequences(root) == set(), 'same size and time: not read again'
    os.utime(path, ns=(times[0], times[1] + 10**9))
    assert check_sequences(root) == {path}
    (root / CACHE).write_text('no json')
    assert check_sequences(root) == {path}


def test_only_if_nothing_is_left_it_is_an_error(root, capsys):
    for path in (root / 'images').iterdir():
        path.write_bytes(b'')
    with pytest.raises(DataError, match='no image that can be read'):
        check_sequences(root)
    assert 'left out 8 of 8 images' in capsys.readouterr().out


# Files that describe a sequence


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('frames.txt', '1 1\n' * FRAMES, 'numbers must grow'),
        ('speed.txt', '1\n2\n', "8 images, but '.*speed.txt' has 2 rows. rows are missing"),
        ('times.txt', '1 2\n' * FRAMES, 'holds 8x2 numbers, needed are 8x1'),
        ('times.txt', 'nan\n' * FRAMES, 'finite'),
        ('odometry.txt', '0 ' * 12 * FRAMES, 'odometry.txt'),
        ('odometry.txt', ('0 ' * 12 + '\n') * FRAMES, 'row 1, is no camera pose'),
        ('depth_scale.txt', '1 2\n', 'depth_scale.txt'),
    ],
)
def test_bad_tables(root, name, text, message):
    (root / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_sequence(root)


def test_unfinished_sequences_are_not_found(root, tmp_path_factory):
    parent = tmp_path_factory.mktemp('set')
    (root).rename(parent / 'a')
    (parent / '.b.part' / 'images').mkdir(parents=True)
    assert [s.folder.name for s in find_sequences(parent)] == ['a']


def test_no_sequence_is_passed_over_for_the_name_of_its_images(root, tmp_path_factory):
    parent = tmp_path_factory.mktemp('sets')
    for name, images in (('a', 'images'), ('b', 'image_0')):
        shutil.copytree(root, parent / name)
        (parent / name / 'images').rename(parent / name / images)
    assert [s.folder.name for s in find_sequences(parent)] == ['a', 'b']
    assert [s.folder.name for s in find_sequences(parent / 'b')] == ['b']


# Real recordings


@pytest.mark.parametrize(('name', 'count'), [('kitti_street', 89), ('indoor_handheld', 198)])
def test_real_recordings(data_dir, name, count):
    if not (data_dir / name).is_dir():
        pytest.skip(f'{data_dir} has no {name}')
    if name == 'indoor_handheld':
        sequence = read_sequence(data_dir / name)
        assert len(sequence.images) == 200 and sequence.distance(0, 1) != sequence.distance(0, 1)
    data = FrameDataset(data_dir / name, 320, 96, augment=EVERYTHING)
    assert len(data) == count
    item = default_collate([data[0, 1], data[count - 1, 2]])
    assert item['inputs'].shape == (2, 3, 3, 96, 320)
    known = item['labels'] < 19 if name == 'kitti_street' else item['depth'] > 0
    assert known.float().mean() > 0.5
    # Neighbours look alike, much more than pictures from the two ends.
    images = FrameDataset(data_dir / name, 320, 96)[0]['images'].float()
    assert (images[0] - images[1]).abs().mean() < (
        item['images'][0] * 1.0 - item['images'][1]
    ).abs().mean()

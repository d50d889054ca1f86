"""Training, on a tiny budget."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from support.training import (
    CONFIGS,
    FSRE,
    LIGHT,
    SFM,
    arguments,
    batch_of,
    config,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.__main__ import main
from train.data.sequences import DataError
from train.training.callbacks import KeepBest, KeepLast
from train.training.system import System
from train.training.trainer import fit

pytestmark = pytest.mark.slow  # trainings

# Fit


def test_training_lowers_the_loss(street, tmp_path):
    system = fit(config(street, tmp_path, steps=40, val_every=40, batch_size=4))
    assert system.global_step == 40
    text = (tmp_path / 'logs/version_0/metrics.csv').read_text()
    assert 'val/abs_rel' in text and (tmp_path / 'best.ckpt').exists()
    batch = batch_of(street, 4)
    torch.manual_seed(1)
    fresh = System(config(street, 'unused'))
    with torch.no_grad():  # in training mode: statistics of this batch in both
        before, after = (s.train().losses(batch).terms['loss'] for s in (fresh, system))
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ('settings', 'without', 'remedy'),
    [
        ({'semantic': 0.3}, 'semantics', "setting 'semantic' needs labels.*train label"),
        ({**FSRE, 'semantic': 0.0}, 'semantics', "setting 'triplet' needs labels"),
        ({'semantic': 0.0, 'moving': 'semantic'}, 'semantics', "setting 'moving' needs labels"),
        (
            {'semantic': 0.0, 'camera_height': 1.2},
            'semantics',
            "setting 'camera_height' needs labels.*export --camera-height",
        ),
        ({'velocity': 0.1}, 'speed.txt', "setting 'velocity' needs distances.*speed.txt"),
    ],
)
def test_a_loss_without_its_data_is_refused(street, tmp_path, settings, without, remedy):
    data = tmp_path / 'data'
    shutil.copytree(street, data, ignore=lambda *_: [without])
    with pytest.raises(DataError, match=remedy):
        fit(config(data, tmp_path / 'run', **settings))


@pytest.mark.parametrize(
    ('by_depth', 'known', 'best'), [(True, True, 2), (True, False, 1), (False, True, 1)]
)
def test_the_best_is_chosen_by_depth_where_it_is_known(
    street, trained, tmp_path, monkeypatch, by_depth, known, best
):
    """The photometric error is best at the first validation, that of depth at the second."""
    errors = iter([(0.1, 0.5), (0.2, 0.3), (0.3, 0.4)])
    validated = KeepBest.on_validation_end

    def with_errors(self, trainer, system):
        photometric, abs_rel = map(torch.tensor, next(errors))
        metrics = trainer.callback_metrics
        metrics.update({'val/photometric': photometric, 'val/abs_rel': abs_rel})
        monkeypatch.setattr(
            type(trainer),
            'callback_metrics',
            property(lambda _: {k: v for k, v in metrics.items() if known or k != 'val/abs_rel'}),
        )
        validated(self, trainer, system)

    monkeypatch.setattr(KeepBest, 'on_validation_end', with_errors)
    fit(
        config(
            street,
            tmp_path,
            steps=3,
            val_every=1,
            train_perception=by_depth,
            init='' if by_depth else str(trained / 'last.ckpt'),
        )
    )
    assert torch.load(tmp_path / 'best.ckpt', weights_only=True)['global_step'] == best


def test_tensorboard_shows_losses_and_pictures(trained):
    board = EventAccumulator(str(trained / 'logs/version_0'), {'images': 0, 'scalars': 0})
    board.Reload()
    assert 'val/abs_rel' in board.Tags()['scalars']
    assert len(board.Images('validation/0')) == 2  # after steps 2 and 4


def loss_curve(out):
    """Losses by step, of all starts of a training."""
    curve = {}
    for path in sorted(out.glob('logs/version_*/metrics.csv')):
        with path.open() as file:
            curve.update(
                {
                    int(row['step']): row['train/loss']
                    for row in csv.DictReader(file)
                    if row.get('train/loss')
                }
            )
    return curve


def test_a_resumed_training_has_the_same_loss_curve(street, tmp_path, monkeypatch):
    monkeypatch.setattr('train.training.trainer.LOG_EVERY', 1)
    augmented = {'max_gap': 2, 'scale': 1.15, 'night': 0.5}
    whole = fit(config(street, tmp_path / 'whole', steps=6, **augmented))
    # The schedule knows the whole length; the interruption comes after step 3.
    monkeypatch.setattr(
        KeepLast,
        'on_train_batch_end',
        lambda self, trainer, *_: setattr(trainer, 'should_stop', trainer.global_step == 3),
    )
    fit(config(street, tmp_path / 'parts', steps=6, **augmented))
    monkeypatch.undo()
    monkeypatch.setattr('train.training.trainer.LOG_EVERY', 1)
    parts = fit(
        config(street, tmp_path / 'parts', steps=6, **augmented),
        resume_from=tmp_path / 'parts/last.ckpt',
    )
    curve = loss_curve(tmp_path / 'whole')
    assert len(curve) == 6 and loss_curve(tmp_path / 'parts') == curve
    for name, value in parts.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=0, atol=0, msg=name)


def test_a_resumed_training_remembers_its_best(street, tmp_path):
    fit(config(street, tmp_path, steps=2))
    best = tmp_path / 'best.ckpt'
    state = torch.load(tmp_path / 'last.ckpt', weights_only=True)
    state['callbacks']['KeepBest']['best_model_score'] = torch.tensor(0.0)  # cannot be beaten
    state['callbacks']['KeepBest']['best_k_models'] = {str(best): torch.tensor(0.0)}
    state['callbacks']['KeepBest']['kth_value'] = torch.tensor(0.0)
    torch.save(state, tmp_path / 'last.ckpt')
    before = best.read_bytes()
    fit(config(street, tmp_path, steps=4), resume_from=tmp_path / 'last.ckpt')
    assert best.read_bytes() == before


def test_the_seed_decides_the_weights(street, trained, tmp_path):
    again = fit(config(street, tmp_path))
    first = torch.load(trained / 'last.ckpt', weights_only=True)['state_dict']
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, first[name], msg=name)


def test_two_processes_learn_what_one_does_with_the_whole_batch(street, tmp_path):
    """Networks without batch norm, whose statistics CPU processes cannot share."""
    settings = {
        **LIGHT,
        **SFM,
        'semantic': 0.0,
        'batch_size': 4,
        'steps': 2,
        'val_every': 2,
        'accelerator': 'cpu',
        'batch_norm': False,
    }
    one = fit(config(street, tmp_path / 'one', **settings))
    command = [
        sys.executable,
        '-m',
        'train',
        'fit',
        *arguments(street, tmp_path / 'two', **{**settings, 'devices': 2}),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    two = torch.load(tmp_path / 'two/last.ckpt', weights_only=True)
    assert two['global_step'] == 2
    start = System(config(street, 'unused', **settings)).state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two['state_dict'][name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert any(not torch.equal(v, start[n]) for n, v in one.state_dict().items())


def test_processes_judge_together_what_not_all_of_them_see(street, tmp_path):
    """Two frames are validated, one by each process: one has true depth, the other one labels."""
    val = tmp_path / 'val'
    shutil.copytree(
        street, val, ignore=lambda folder, _: ['semantics' if folder.endswith('0000') else 'depth']
    )
    for folder in val.iterdir():
        for name in ('images', 'depth', 'semantics'):
            for path in (folder / name).glob('*'):
                if path.stem > '000002':
                    path.unlink()
        for path in folder.glob('[pst]*.txt'):
            np.savetxt(path, np.loadtxt(path)[:3])
    found = {}
    for devices in (1, 2):
        out = tmp_path / str(devices)
        command = [
            sys.executable,
            '-m',
            'train',
            'fit',
            *arguments(
                street,
                out,
                val=str(val),
                steps=1,
                val_every=1,
                devices=devices,
                accelerator='cpu',
                learning_rate=1e-12,
            ),
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert result.returncode == 0, result.stderr
        with (out / 'logs/version_0/metrics.csv').open() as file:
            rows = [row for row in csv.DictReader(file) if row['val/abs_rel']]
        found[devices] = [float(rows[-1][f'val/{n}']) for n in ('abs_rel', 'scale', 'road_iou')]
    np.testing.assert_allclose(found[2], found[1], rtol=0.02)


def test_an_interrupted_training_goes_on(street, tmp_path):
    command = [
        sys.executable,
        '-m',
        'train',
        'fit',
        *arguments(street, tmp_path, steps=100000, val_every=100000),
    ]
    # A process that a shell starts in the background ignores interrupts, and its children with it.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 600
        while not (tmp_path / 'last.ckpt').exists():  # after 100 steps
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        written = os.stat(tmp_path / 'last.ckpt').st_mtime_ns
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and 'the same command goes on' in output
    assert os.stat(tmp_path / 'last.ckpt').st_mtime_ns > written
    step = torch.load(tmp_path / 'last.ckpt', weights_only=True)['global_step']
    assert step >= 100
    system = fit(
        config(street, tmp_path, steps=step + 2, val_every=100000),
        resume_from=tmp_path / 'last.ckpt',
    )
    assert system.global_step == step + 2


def test_damaged_files_are_listed_and_left_out(street, tmp_path, capfd):
    root = tmp_path / 'damaged'
    shutil.copytree(street, root)
    (root / '0000/images/000002.png').write_bytes(b'')
    fit(config(root, tmp_path / 'run', steps=1))
    printed = capfd.readouterr().out
    assert '000002.png' in printed and 'training on 5 samples' in printed


def test_a_phase_for_the_pose_network_alone(street, trained, tmp_path):
    system = fit(
        config(street, tmp_path, init=str(trained / 'last.ckpt'), max_gap=2, train_perception=False)
    )
    before = torch.load(trained / 'last.ckpt', weights_only=True)['state_dict']
    same = {n: torch.equal(v, before[n]) for n, v in system.state_dict().items()}
    assert all(v for n, v in same.items() if n.startswith('perception.'))
    assert not any(v for n, v in same.items() if n.startswith('pose.') and n.endswith('weight'))
    assert (tmp_path / 'best.ckpt').exists()


def test_bad_requests_are_named(street, tmp_path, capsys):
    for change, message in (
        ({'data': str(tmp_path)}, 'no sequences'),
        ({'init': str(tmp_path / 'no.ckpt')}, 'no.ckpt'),
    ):
        assert main(['fit', *arguments(street, tmp_path / 'out', **change)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / 'bad.yaml').write_text('stepz: 3\n')
    assert main(['fit', '--config', str(tmp_path / 'bad.yaml')]) == 2
    assert 'bad.yaml' in capsys.readouterr().err
    assert main(['export', str(tmp_path / 'no.ckpt')]) == 2
    assert 'no.ckpt' in capsys.readouterr().err


# Real footage


def test_a_short_training_on_a_real_street_explains_it_better(data_dir, tmp_path, capsys):
    """From a folder of images to a trajectory that evaluates, with the config for own data."""
    recording, size = data_dir / 'kitti_odometry_00', ['--width', '192', '--height', '64']
    assert (
        main(
            [
                'prepare',
                'folder',
                str(recording),
                '--out',
                str(tmp_path / 'data'),
                '--without',
                'semantics',
                *size,
            ]
        )
        == 0
    )
    options = [
        '--config',
        str(CONFIGS / 'own.yaml'),
        '--data',
        str(tmp_path / 'data/train'),
        '--val',
        str(tmp_path / 'data/val'),
        '--out',
        str(tmp_path / 'run'),
        *size,
        '--workers',
        '0',
        '--steps',
        '150',
        '--val-every',
        '25',
        '--learning-rate',
        '1e-3',
    ]
    assert main(['fit', *options]) == 0
    with (tmp_path / 'run/logs/version_0/metrics.csv').open() as file:
        errors = [
            float(row['val/photometric']) for row in csv.DictReader(file) if row['val/photometric']
        ]
    assert len(errors) == 6 and errors[-1] < 0.9 * errors[0]
    capsys.readouterr()
    assert (
        main(
            [
                'evaluate',
                str(recording),
                '--model',
                str(tmp_path / 'run/best.ckpt'),
                '--tasks',
                'odometry',
                '--json',
                str(tmp_path / 'metrics.json'),
            ]
        )
        == 0
    )
    numbers = next(
        iter(json.loads((tmp_path / 'metrics.json').read_text())['trajectories'].values())
    )
    assert numbers['frames'] == 200 and 0 < numbers['ate_sim3'] < numbers['length']

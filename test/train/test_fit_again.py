"""The same training goes on, another one does not; what is good is never lost."""

import errno
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from support.training import arguments, config

from depth_ros.files import HeldError, locked
from train.__main__ import main
from train.geometry import sample
from train.losses.reduction import LossError
from train.training import callbacks
from train.training.system import System
from train.training.trainer import fit

pytestmark = pytest.mark.slow


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a training of four steps."""
    return shutil.copytree(trained, tmp_path / 'run')


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'width': 128}, 'width was 96, is 128'),
        ({'seed': 2, 'smoothness': 0.5}, 'seed was 1, is 2; smoothness was'),
        ({'pose_network': 'sfm', 'views': 2}, "pose_network was 'light', is 'sfm'"),
        ({'precision': 'bf16-mixed'}, "precision was '32-true'"),
    ],
)
def test_another_training_is_refused(street, run, capsys, changes, message):
    before = (run / 'last.ckpt').read_bytes()
    assert main(['fit', *arguments(street, run, **{'steps': 6, **changes})]) == 2
    error = capsys.readouterr().err
    assert 'holds another training' in error and message in error and '--restart' in error
    assert (run / 'last.ckpt').read_bytes() == before


@pytest.mark.parametrize('what', ['data', 'val'])
def test_other_data_is_refused_wherever_it_lies(street, run, tmp_path, capsys, what):
    copy = shutil.copytree(street, tmp_path / 'copy')
    assert main(['fit', *arguments(street, run, **{what: str(copy)})]) == 0  # the same data
    assert 'nothing to do' in capsys.readouterr().out
    intrinsics = copy / '0000/intrinsics.txt'
    intrinsics.write_text(intrinsics.read_text().replace('5.', '6.'))
    shutil.copytree(copy / '0001', copy / '0002')
    for steps in (4, 6):  # be they done or not
        assert main(['fit', *arguments(street, run, steps=steps, **{what: str(copy)})]) == 2
        error = capsys.readouterr().err
        assert f"{what} '{copy}' has other content (sequences: 1 added, 1 changed)" in error


def test_without_a_claim_the_checkpoint_says_what_it_is(street, run, capsys):
    """As versions before the claim left it."""
    (run / 'training.json').unlink()
    assert main(['fit', *arguments(street, run, data=str(street / '0000'), steps=6)]) == 2
    assert f"data was '{street}', is '{street / '0000'}'" in capsys.readouterr().err


def test_nothing_is_written_where_all_steps_are_done(street, run, capsys):
    before = {p: p.stat().st_mtime_ns for p in run.rglob('*')}
    assert main(['fit', *arguments(street, run, learning_rate=1e-5)]) == 0
    assert 'is of step 4, and 4 are asked for; give more --steps' in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in run.rglob('*')} == before


def test_a_new_learning_rate_and_length_hold(street, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        rates.append(self.param_groups[0]['lr'])
        return step(self, *args, **kwargs)

    common = {'schedule': 'cosine', 'val_every': 100}
    fit(config(street, tmp_path / 'a', steps=2, learning_rate=1e-3, **common))
    monkeypatch.setattr(torch.optim.AdamW, 'step', noted)
    fit(
        config(street, tmp_path / 'a', steps=4, learning_rate=1e-5, **common),
        resume_from=tmp_path / 'a/last.ckpt',
    )
    resumed = rates.copy()
    rates.clear()
    fit(config(street, tmp_path / 'b', steps=4, learning_rate=1e-5, **common))
    assert resumed == rates[2:] and len(resumed) == 2
    assert load(tmp_path / 'a/last.ckpt')['hyper_parameters']['learning_rate'] == 1e-5


def test_a_training_that_diverges_leaves_the_good_checkpoint(street, run, capsys):
    """And goes on from it as the message says."""
    options = {'steps': 6, 'val_every': 100}
    before = (run / 'last.ckpt').read_bytes()
    assert main(['fit', *arguments(street, run, learning_rate=1e30, **options)]) == 2
    error = capsys.readouterr().err
    assert 'run again with a lower --learning-rate (now 1e+30)' in error and '--restart' in error
    assert (run / 'last.ckpt').read_bytes() == before
    assert main(['fit', *arguments(street, run, learning_rate=1e-4, **options)]) == 0
    assert load(run / 'last.ckpt')['global_step'] == 6


def test_what_is_not_finite_is_not_saved(street, tmp_path, monkeypatch):
    """Neither as the last nor as the best."""
    validated = System.on_validation_epoch_end

    def broken(self):
        validated(self)
        with torch.no_grad():
            next(self.pose.parameters()).fill_(math.nan)

    monkeypatch.setattr(System, 'on_validation_epoch_end', broken)
    with pytest.raises(LossError, match=r'step 2: .*Nothing was saved'):
        fit(config(street, tmp_path))
    assert not list(tmp_path.glob('*.ckpt'))


def test_the_last_three_are_kept(street, tmp_path, monkeypatch):
    """Saved after each step here; a fresh start does not mix them with those of another."""
    end = callbacks.KeepLast.on_train_batch_end

    def save_each(self, trainer, *_):
        end(self, trainer)
        self.save(trainer)

    monkeypatch.setattr(callbacks.KeepLast, 'on_train_batch_end', save_each)
    names = ('last.ckpt', 'last-1.ckpt', 'last-2.ckpt')
    fit(config(street, tmp_path, steps=4))
    assert [load(tmp_path / n)['global_step'] for n in names] == [4, 3, 2]
    fit(config(street, tmp_path, steps=5), resume_from=tmp_path / 'last-2.ckpt')
    assert [load(tmp_path / n)['global_step'] for n in names] == [5, 4, 3]
    fit(config(street, tmp_path, steps=1))
    assert [(tmp_path / n).exists() for n in names] == [True, False, False]


def test_a_full_disk_leaves_the_older_best(street, run, monkeypatch, capsys):
    before = {name: (run / name).read_bytes() for name in ('best.ckpt', 'last.ckpt')}
    write = Path.write_bytes

    def full(self, content):
        if 'ckpt' in self.name:
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, content)

    monkeypatch.setattr(Path, 'write_bytes', full)
    monkeypatch.setattr(callbacks.KeepBest, 'load_state_dict', lambda *_: None)  # all is better
    assert main(['fit', *arguments(street, run, steps=6)]) == 2
    assert 'No space left on device' in capsys.readouterr().err
    assert before == {name: (run / name).read_bytes() for name in before}
    assert not list(run.glob('.*.part'))


def test_a_folder_takes_one_training_at_a_time(street, tmp_path, capsys):
    with locked(tmp_path / '.lock', 'training'):
        with pytest.raises(HeldError):
            fit(config(street, tmp_path))
        assert main(['fit', *arguments(street, tmp_path)]) == 2
        assert f'is in use by process {os.getpid()} on ' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_damaged_is_named(street, run, capsys):
    content = (run / 'last.ckpt').read_bytes()
    shutil.copy(run / 'last.ckpt', run / 'last-1.ckpt')
    for damaged in (content[: len(content) // 2], b'', b'text'):
        (run / 'last.ckpt').write_bytes(damaged)
        assert main(['fit', *arguments(street, run, steps=6)]) == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1
        assert f"'{run / 'last.ckpt'}' is damaged" in error
        assert f'--resume {run / "last-1.ckpt"}' in error and '--restart' in error


def test_the_best_of_before_is_the_bar_where_the_folder_is_now(street, run, tmp_path):
    moved = tmp_path / 'moved'
    run.rename(moved)
    state = load(moved / 'last.ckpt')
    best = state['callbacks']['KeepBest']
    best['best_model_score'] = best['kth_value'] = torch.tensor(0.0)  # cannot be beaten
    best['best_k_models'] = {best['best_model_path']: torch.tensor(0.0)}
    torch.save(state, moved / 'last.ckpt')
    before = (moved / 'best.ckpt').read_bytes()
    fit(config(street, moved, steps=6), resume_from=moved / 'last.ckpt')
    assert (moved / 'best.ckpt').read_bytes() == before


@pytest.mark.parametrize('validity', [True, False])
def test_not_a_number_is_an_error_and_no_crash(street, tmp_path, validity):
    """PyTorch's gradient of grid_sample reads out of bounds there, on a CPU."""
    grid = torch.zeros(2, 64, 128, 2)
    grid[0, 3, 5:60] = math.nan
    with pytest.raises(LossError, match='no longer a number'):
        sample(torch.rand(2, 3, 64, 128), grid.requires_grad_())
    settings = {'validity': validity, 'automask': False, 'semantic': 0.0}
    with pytest.raises(LossError, match='lower --learning-rate'):
        fit(config(street, tmp_path, learning_rate=1e30, schedule='constant', **settings))
    assert not (tmp_path / 'last.ckpt').exists()

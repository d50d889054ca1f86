"""The training from any folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from depth_ros.commands import train as command
from train.training.config import DEFAULT, _found


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, '-m', 'depth_ros.commands.train', *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_from_another_folder(tmp_path):
    done = run(tmp_path, '--help')
    assert (
        done.returncode == 0
        and 'prepare' in done.stdout
        and 'usage: python -m train' in done.stdout
    )
    done = run(tmp_path, 'prepare', 'nowhere', '--out', 'out')
    assert done.returncode == 2
    assert done.stderr.strip() == "python -m train prepare: there is no 'nowhere': check the path"


def test_without_a_checkout_it_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, 'CHECKOUT', tmp_path)
    assert command.main() == 1
    assert 'comes with a checkout' in capsys.readouterr().err


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('train/configs/own.yaml', 'own.yaml'):
        assert _found(Path(name)) == DEFAULT.parent / 'own.yaml'
    (tmp_path / 'own.yaml').write_text('steps: 3\n')  # one's own comes first
    assert str(_found(Path('own.yaml'))) == 'own.yaml'
    assert str(_found(Path('no.yaml'))) == 'no.yaml'  # which is said when it is read

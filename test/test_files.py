"""Files that are whole or absent, and locks that say who holds them."""

import os
import subprocess
import sys
import threading

import pytest

from depth_ros.files import HeldError, discard_parts, locked, replacing, write_file

HOLD = """
import sys, time
from pathlib import Path
from depth_ros.files import locked
with locked(Path(sys.argv[1]), "training in 'x'"):
    print('held', flush=True)
    time.sleep(60)
"""


def hold(path):
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == 'held\n'
    return process


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / 'best.ckpt'
    write_file(path, b'old')
    with pytest.raises(OSError, match='no space'), replacing(path) as part:
        part.write_bytes(b'ne')
        assert path.read_bytes() == b'old'
        raise OSError('no space left')
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['best.ckpt']


def test_writers_of_one_name_do_not_meet(tmp_path):
    """Each of many threads writes its own file under the same name; one of them stays, whole."""
    contents = [str(n) * 100000 for n in range(8)]
    threads = [
        threading.Thread(target=write_file, args=(tmp_path / 'same', content))
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / 'same').read_text() in contents and os.listdir(tmp_path) == ['same']


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / '.last.ckpt.123-abcd.part').touch()
    (tmp_path / '.other.ckpt.123-abcd.part').touch()
    discard_parts(tmp_path / 'last.ckpt')
    assert os.listdir(tmp_path) == ['.other.ckpt.123-abcd.part']


def test_a_lock_says_who_holds_it(tmp_path):
    path = tmp_path / '.lock'
    process = hold(path)
    try:
        message = rf"process {process.pid} on .* since 20.*: training in 'x'"
        with pytest.raises(HeldError, match=message), locked(path, 'another'):
            pass
    finally:
        process.kill()  # as a crash: the file stays, and holds nobody up
        process.wait()
    with locked(path, 'another'):
        assert f'"pid": {os.getpid()}' in path.read_text()
    assert not path.exists()


def test_a_forked_child_does_not_hold_on(tmp_path):
    path = tmp_path / '.lock'
    with locked(path, 'parent'):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)  # until the parent closes its end
            os._exit(0)
        os.close(reader)
    with locked(path, 'next'):
        pass
    os.close(writer)
    os.waitpid(child, 0)

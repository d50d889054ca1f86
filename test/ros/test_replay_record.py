"""Player and recorder, each in its own process over real DDS: every byte comes through, stamps and
pace are kept, and nothing half written stays."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from rosgraph_msgs.msg import Clock
from support.bag_messages import TYPES, camera_info, image
from support.ros_process import Peer

from depth_ros.bags.messages import CAMERA_INFO, IMAGE, TF
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from depth_ros.ros.transport import env

PERIOD_NS = 50_000_000
START_NS = 1_700_000_000 * 10**9
FRAMES = 20
TOPICS = ['/cam/image', '/cam/camera_info', '/note']


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    """20 raw images at 20 Hz, a latched note, and a type that the ROS wheels do not have."""
    path = tmp_path_factory.mktemp('bags') / 'source'
    rng = np.random.default_rng(0)
    strange = TYPES[TF]([])
    with BagWriter(path) as writer:
        note = TYPES['std_msgs/msg/String']('first')
        writer.write('/note', 'std_msgs/msg/String', START_NS, note, latched=True)
        writer.write('/strange', TF, START_NS, strange)
        for index in range(FRAMES):
            time_ns = START_NS + index * PERIOD_NS
            pixels = rng.integers(0, 255, (480, 640, 3), np.uint8)  # over 512 KiB
            stamp = time_ns - 5_000_000  # stamps differ from log times, and have to stay so
            writer.write('/cam/image', IMAGE, time_ns, image(pixels, 'rgb8', stamp))
            writer.write('/cam/camera_info', CAMERA_INFO, time_ns, camera_info(stamp))
    return path


@contextmanager
def running(module, *arguments):
    """Run a module of the package; what is left of it in the end is killed."""
    process = subprocess.Popen(
        [sys.executable, '-m', f'depth_ros.{module}', *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env(),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def play(*arguments, timeout=60):
    with running('ros.player', *arguments) as process:
        out, err = process.communicate(timeout=timeout)
    return process.returncode, err


def wait_for_folder(path, timeout=30):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if list(path.parent.glob(f'.{path.name}.*')):
            return
        time.sleep(0.05)
    raise TimeoutError(f'{path} was not begun')


@pytest.fixture(scope='module')
def played(recording, tmp_path_factory):
    """The recording played at twice its speed into another recording."""
    folder = tmp_path_factory.mktemp('played')
    sent, arrived, output = folder / 'sent.json', folder / 'arrived.csv', folder / 'output'
    waits = [f'{topic}=1' for topic in TOPICS]
    with running(
        'ros.recorder',
        output,
        '--topics',
        *TOPICS,
        '/clock',
        '--log',
        arrived,
        '--ros-args',
        '-p',
        'use_sim_time:=true',
    ) as recorder:
        status, errors = play(recording, '--rate', 2, '--wait-for', *waits, '--log', sent)
        assert status == 0, errors
        deadline = time.monotonic() + 20
        while len(arrived.read_text().splitlines()) < 2 * FRAMES and time.monotonic() < deadline:
            time.sleep(0.1)
        recorder.send_signal(signal.SIGINT)
        _, recorder_errors = recorder.communicate(timeout=30)
        assert recorder.returncode == 0, recorder_errors
    return {
        'output': output,
        'sent': json.loads(sent.read_text()),
        'errors': errors,
        'arrived': [(t, int(s), int(r)) for t, s, r in csv.reader(arrived.open())],
    }


def test_every_byte_arrives_in_order(recording, played):
    with Bag(recording) as source, Bag(played['output']) as output:
        for topic in TOPICS:
            sent = [m.data for m in source.messages([topic])]
            arrived = [m.data for m in output.messages([topic])]
            # DDS pads a message to a multiple of four bytes.
            assert [data[: len(s)] for data, s in zip(arrived, sent, strict=True)] == sent
            assert all(len(data) - len(s) < 4 for data, s in zip(arrived, sent, strict=True))
        assert output.topics['/note'].latched


def test_log_times_follow_the_simulated_clock(played):
    with Bag(played['output']) as output:
        times = np.array([m.log_ns for m in output.messages(['/cam/image'])])
        ticks = [output.decode(m).clock for m in output.messages(['/clock'])]
    clock = np.array([t.sec * 10**9 + t.nanosec for t in ticks])
    length = (FRAMES - 1) * PERIOD_NS
    assert clock[0] >= START_NS and clock[-1] == START_NS + length
    assert np.all(np.diff(clock[clock > START_NS]) > 0)
    # The recorder may lag, but it never sees a time that has not been published.
    assert np.all((times >= START_NS) & (times <= START_NS + length))


def test_pace_and_latency_can_be_told_from_the_logs(played):
    sent = {(t, s): w for t, s, w in played['sent']['published']}
    arrived = {(t, s): w for t, s, w in played['arrived']}
    assert len(sent) == 2 * FRAMES and sent.keys() == arrived.keys()
    assert all(arrived[key] > sent[key] for key in sent)
    times = [sent['/cam/image', START_NS - 5_000_000 + i * PERIOD_NS] for i in range(FRAMES)]
    # Never early: whatever the load of the machine, each message waits for its time.
    assert all(
        t - times[0] >= (i * PERIOD_NS / 2 - played['sent']['latest_s'] * 1e9)
        for i, t in enumerate(times)
    )


def test_a_type_that_is_not_installed_is_skipped_with_one_message(played):
    if importlib.util.find_spec('tf2_msgs'):
        pytest.skip('tf2_msgs is installed here')
    assert played['errors'].count('/strange is not played') == 1
    assert 'tf2_msgs/msg/TFMessage is not installed' in played['errors']


def test_missing_subscribers_are_named(recording):
    status, errors = play(recording, '--wait-for', '/cam/image=1', '--timeout', 1)
    assert status == 1
    assert '/cam/image has 0 of 1 subscribers after 1 s' in errors


def test_bad_recording_is_one_line(tmp_path):
    status, errors = play(tmp_path / 'nothing')
    assert status == 1
    assert 'nothing does not exist' in errors and 'Traceback' not in errors


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_player_still_writes_its_log(recording, tmp_path, number):
    log = tmp_path / 'sent.json'
    with (
        Peer() as peer,
        running('ros.player', recording, '--loop', '--rate', 0.1, '--log', log) as player,
    ):
        clock = peer.messages['/clock']
        peer.listen(Clock, '/clock')
        peer.spin_until(lambda: clock, what='/clock')
        player.send_signal(number)
        player.communicate(timeout=30)
        assert player.returncode == 0
    assert 'published' in json.loads(log.read_text())
    assert os.listdir(tmp_path) == ['sent.json']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_recorder_leaves_a_whole_recording(recording, tmp_path, number):
    output = tmp_path / 'output'
    with (
        running('ros.recorder', output, '--topics', '/cam/image') as recorder,
        running('ros.player', recording, '--loop', '--rate', 5, '--wait-for', '/cam/image=1'),
    ):
        wait_for_folder(output)
        time.sleep(5)
        assert not output.exists()
        recorder.send_signal(number)
        recorder.communicate(timeout=30)
        assert recorder.returncode == 0
    with Bag(output) as bag:
        assert sum(1 for _ in bag.messages(['/cam/image'])) == bag.topics['/cam/image'].count > 0
    assert os.listdir(tmp_path) == ['output']


def test_recorder_does_not_overwrite_by_itself(recording):
    with running('ros.recorder', recording, '--topics', '/cam/image') as recorder:
        _, errors = recorder.communicate(timeout=30)
    assert recorder.returncode == 1
    assert 'exists already' in errors and 'Traceback' not in errors

"""Limits of the diagnostics, the machine's state, and the services enable and status."""

import json
import types
from pathlib import Path

import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from support.onnx_models import save_perception
from support.ros_process import NodeProcess, Peer
from support.scene import Scene

from depth_ros.nodes import camera_node
from depth_ros.nodes.diagnosis import LIMITS, Machine, exceeded
from depth_ros.nodes.monitor import StageTimes
from depth_ros.nodes.parameters import COMMON
from depth_ros.ros.transport import EVENT_QOS

NONE = dict.fromkeys((parameter for parameter, *_ in LIMITS), 0.0)


@pytest.mark.parametrize(
    ('limit', 'values', 'said'),
    [
        ({'min_rate': 5.0}, {'rate_hz': '4.00'}, 'only 4.00 Hz come out (min_rate 5)'),
        ({'min_rate': 5.0}, {'rate_hz': '6.00'}, ''),
        ({'max_latency': 90.0}, {'latency_p95_ms': '91.0'}, '91.0 ms (max_latency 90)'),
        ({'max_temperature': 95.0}, {}, ''),  # no sensor
        ({'max_temperature': 95.0}, {'temperature_c': '97.5'}, '97.5 degrees'),
        ({'max_input_age': 100.0}, {'input_age_ms': ''}, ''),
        ({}, {'rate_hz': '0.00', 'memory_mb': '9000'}, ''),
    ],
)
def test_limits(limit, values, said):
    found = exceeded(values, types.SimpleNamespace(**{**NONE, **limit}))
    assert said in found and bool(said) == bool(found)


def test_each_limit_is_a_parameter_of_both_nodes():
    assert NONE.keys() <= {p.name for p in COMMON}


def test_several_limits_are_all_said():
    settings = types.SimpleNamespace(**{**NONE, 'min_rate': 5.0, 'max_memory': 500.0})
    found = exceeded({'rate_hz': '1.00', 'memory_mb': '600'}, settings)
    assert 'only 1.00 Hz' in found and '600 MB' in found


def test_heat_and_throttling_come_from_sysfs(tmp_path):
    """Like a Jetson: two sensors of which one is off, a clock that is held down, a fan."""
    files = {
        'proc/self/statm': '5000 1000 10',
        'sys/class/thermal/thermal_zone0/temp': '71500',
        'sys/class/thermal/thermal_zone1/temp': '-256000',
        'sys/class/thermal/cooling_device0/type': 'cpufreq-cpu0',
        'sys/class/thermal/cooling_device0/cur_state': '2',
        'sys/class/thermal/cooling_device1/type': 'pwm-fan',
        'sys/class/thermal/cooling_device1/cur_state': '1',
        'sys/class/hwmon/hwmon3/oc1_event_cnt': '4',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'{text}\n')
    found = Machine(tmp_path).values()
    assert found['temperature_c'] == '71.5'
    assert found['throttled'] == 'cpufreq-cpu0, 4 over-current events'
    assert float(found['memory_mb']) == pytest.approx(4.1, abs=0.2)


def test_a_machine_without_sensors(tmp_path):
    assert Machine(tmp_path).values() == {}
    assert float(Machine().values()['memory_mb']) > 10


def test_latency_of_the_slowest_frames():
    times = StageTimes()
    assert times.latency(0.95) is None
    for milliseconds in range(100):
        times.finish(0.001, milliseconds / 1000)
    assert times.latency(0.95) == pytest.approx(95) and times.latency(0.99) == pytest.approx(99)


@pytest.mark.parametrize(
    ('limit', 'busy', 'ends'), [(0.0, 100.0, False), (5.0, 4.0, False), (5.0, 6.0, True)]
)
def test_the_watchdog_ends_a_process_that_hangs(monkeypatch, limit, busy, ends):
    ended, said = [], []
    monkeypatch.setattr(camera_node.os, '_exit', ended.append)
    node = types.SimpleNamespace(
        get_parameter=lambda name: types.SimpleNamespace(value=limit),
        _monitor=types.SimpleNamespace(health=types.SimpleNamespace(busy=busy)),
        get_logger=lambda: types.SimpleNamespace(fatal=said.append),
    )
    camera_node.CameraNode._watch_worker(node)
    assert ended == [camera_node.HUNG] * ends and len(said) == ends


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    model = save_perception(tmp_path_factory.mktemp('models') / 'perception.onnx')
    with NodeProcess('perception_node', {'model': model}) as process, Peer() as peer:
        peer.listen_diagnostics()
        peer.listen(Image, '/semantics/labels')
        peer.wait_state('perception_node', 'active')
        scene = Scene(peer, process)
        scene.camera.wait_matched()
        scene.answer(['/semantics/labels'])
        yield scene
        assert process.stop() == 0 and 'Traceback' not in process.output


def test_enable_and_disable(running):
    peer, service = running.peer, '/perception_node/enable'
    peer.node.create_subscription(String, '/events', peer.messages['/events'].append, EVENT_QOS)
    answer = peer.call(SetBool, service, SetBool.Request(data=False))
    assert answer.success and 'no image' in answer.message
    peer.spin_until(lambda: not peer.node.count_subscribers('/image'), what='end of subscription')
    assert peer.state('perception_node') == 'active'
    assert peer.call(SetBool, service, SetBool.Request(data=True)).success
    running.camera.wait_matched()
    running.answer(['/semantics/labels'])
    peer.spin_until(lambda: len(peer.messages['/events']) == 2, what='events')
    assert [json.loads(m.data)['event'] for m in peer.messages['/events']] == [
        'disabled',
        'enabled',
    ]


def test_status_for_scripts(running):
    peer = running.peer
    running.answer(['/semantics/labels'])
    peer.diagnostics_after('perception_node', lambda d: 'latency_p99_ms' in d)
    answer = peer.call(Trigger, '/perception_node/status', Trigger.Request())
    status = json.loads(answer.message)
    assert answer.success == (status['level'] == 'OK')
    assert status['values']['model'] == 'tiny_perception' and status['message']
    assert peer.set_parameters('perception_node', max_memory=1.0).successful
    running.answer(['/semantics/labels'])
    peer.diagnostics_after('perception_node', lambda d: True)
    answer = peer.call(Trigger, '/perception_node/status', Trigger.Request())
    assert not answer.success and 'max_memory 1' in answer.message


def test_niceness_is_that_of_the_worker(tmp_path):
    model = save_perception(tmp_path / 'perception.onnx')
    with NodeProcess('perception_node', {'model': model, 'niceness': 7}) as process:
        process.wait_for('active: waiting')
        tasks = Path(f'/proc/{process.process.pid}/task').iterdir()
        # Field 19 of stat, counted behind the name in brackets.
        found = [int((t / 'stat').read_text().rpartition(')')[2].split()[16]) for t in tasks]
        assert found.count(7) >= 2  # the executor's and the worker's
        assert process.stop() == 0

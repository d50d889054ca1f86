"""Nodes that build their TensorRT engine by themselves and check it before they rely on it.

Real nodes over real DDS, and real processes that build; CUDA and TensorRT are stand-ins, see
tensorrt_machine.py, but in the tests marked ``gpu``.
"""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from support import tensorrt_machine
from support.building import (
    CPU,
    NODES,
    TOPICS,
    Machine,
    ends_well,
    engine_names,
    is_running,
    save_engine,
    wait_until,
)
from support.onnx_models import row_depth, save_pose
from support.quantizable import save_network, write_pictures
from support.ros_process import NodeProcess, Peer, image_message, stamp
from support.scene import Scene

from depth_ros.deploy.quantize import quantize
from depth_ros.inference.engine_file import (
    read_record,
)
from depth_ros.nodes.engine_builder import EngineBuild


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def peer():
    with Peer() as peer:
        for topic, kind in TOPICS.values():
            peer.listen(kind, topic)
        peer.listen_diagnostics()
        yield peer


def test_both_nodes_build_while_they_run(machine, peer):
    """On the CPU first, on the GPU then; each message is used and the poses go on."""
    for node in NODES:
        machine.model(node)
    machine.tell('hold')
    with machine.start('perception_node') as first, machine.start('odometry_node') as second:
        processes = {'perception_node': first, 'odometry_node': second}
        for node in NODES:
            peer.wait_state(node, 'active')
        scene = Scene(peer, first)
        scene.camera.wait_matched(nodes=2)
        # One build at a time on a machine.
        wait_until(
            lambda: (
                'which kernels are fastest on Stand-in' in first.output + second.output
                and 'waiting for another build' in first.output + second.output
            )
        )
        scene.answer(['/depth/image_rect'])
        for _ in range(3):
            scene.answer(['/depth/image_rect', '/odom'])
        for node in NODES:
            found = peer.diagnostics_after(node, lambda d: d['tensorrt'].startswith('building: '))
            assert found['backend'] == CPU
        assert len(machine.builds()) == 1
        machine.untell('hold')
        end = time.monotonic() + 60
        while not all('now on tensorrt' in p.output for p in processes.values()):
            assert time.monotonic() < end, first.output + second.output
            scene.answer(['/depth/image_rect', '/odom'])
        for node, process in processes.items():
            process.wait_for('TensorRT: agrees with ')
            for line in (f'TensorRT: building: wrote {machine.models}/{node}.engine', f'on {CPU}'):
                assert line in process.output
        for _ in range(3):
            depth = scene.answer(['/depth/image_rect', '/odom'])['/depth/image_rect']
        for node in NODES:
            found = peer.diagnostics_after(node, lambda d: d['backend'] == 'tensorrt')
            assert found['tensorrt'].startswith(f'agrees with {CPU}: ')
            assert (found['dropped'], found['failed']) == ('0', '0')
            assert read_record(machine.models / f'{node}.engine').precision == 'fp32'
        odom = peer.messages['/odom']
        # The first image has no motion; each further one moves 0.5 m ahead.
        assert [stamp(m) for m in odom] == list(np.arange(102, scene.time + 1))
        np.testing.assert_allclose(
            [m.pose.pose.position.x for m in odom], 0.5 * np.arange(1, len(odom) + 1), atol=1e-6
        )
        assert np.frombuffer(depth.data, np.float32)[-1] == pytest.approx(row_depth()[-1, 0])
        assert len(machine.builds()) == 2
        ends_well(first, second)
    assert machine.files() == sorted(
        name for node in NODES for name in (f'{node}.onnx', *engine_names(node))
    )
    # Another start finds the engines. Memory as the parameter asks. Warnings go to the node's log.
    assert not (machine.folder / 'mapped').exists()
    machine.tell('nograph')
    with machine.start('odometry_node', gpu_memory='mapped') as again:
        again.wait_for('on tensorrt')
        assert '[odometry_node]' in again.wait_for('runs without a CUDA graph')
        ends_well(again)
    assert len(machine.builds()) == 2 and (machine.folder / 'mapped').exists()


def configure_again(peer, node, **parameters):
    """Let a running node load its model again; whether that succeeds."""
    assert peer.change(node, 'deactivate') and peer.change(node, 'cleanup')
    for name, value in parameters.items():
        assert peer.set_parameters(node, **{name: value}).successful
    return peer.change(node, 'configure')


def test_an_engine_that_does_not_fit_is_built_again(machine, peer):
    source = machine.model('odometry_node')
    with machine.start('odometry_node', 'fp16') as process:
        process.wait_for('TensorRT: agrees')
        assert read_record(source.with_suffix('.engine')).precision == 'fp16'
        save_pose(source, motion=(0, 0, 0, 0, 0, 0.25))
        assert configure_again(peer, 'odometry_node', auto_build='never')
        line = process.wait_for('not used')
        assert 'was built from another version' in line and '--precision fp16' in line
        assert peer.change('odometry_node', 'activate')
        assert peer.diagnostics_after('odometry_node', lambda d: d['backend'])['backend'] == CPU
        assert len(machine.builds()) == 1
        assert configure_again(peer, 'odometry_node', auto_build='fp32')
        assert peer.change('odometry_node', 'activate')
        wait_until(lambda: process.output.count('TensorRT: agrees') == 2)
        assert read_record(source.with_suffix('.engine')).precision == 'fp32'
        ends_well(process)


def test_a_damaged_engine_is_built_again(machine):
    """Its record, which is as it should be, does not tell."""
    source = machine.model('odometry_node')
    save_engine(source)
    engine = source.with_suffix('.engine')
    whole = engine.read_bytes()
    engine.write_bytes(whole[: len(whole) // 2])
    with machine.start('odometry_node') as process:
        assert 'the plan is damaged; build it again: ' in process.wait_for('not used')
        process.wait_for('TensorRT: agrees')
        ends_well(process)
    assert len(machine.builds()) == 1 and engine.read_bytes() == whole


@pytest.mark.parametrize(
    ('node', 'problem'),
    [
        ('perception_node', 'relative error of depth up to 25 %, at most 0.2 % is allowed'),
        ('odometry_node', r'error of translation up to 2[45][.\d]* %, at most 0.5 % is allowed'),
    ],
)
def test_a_wrong_engine_is_refused_with_numbers(machine, peer, node, problem):
    machine.model(node)
    machine.tell('wrong')
    with machine.start(node) as process:
        assert re.search(problem, process.wait_for('results are wrong'))
        found = peer.diagnostics_after(node, lambda d: 'not used' in d['tensorrt'])
        assert re.search(problem, found['tensorrt']) and found['backend'] == CPU
        # At the next start at once, and it is not built again, which would not help.
        assert configure_again(peer, node)
        assert process.output.count('results are wrong') == 2
        assert peer.change(node, 'activate')
        assert len(machine.builds()) == 1
        assert not configure_again(peer, node, model=str(machine.models / f'{node}.engine'))
        line = process.wait_for('cannot configure')
        assert re.search(problem, line) and 'compared with' in line
        ends_well(process)


def test_a_build_outlives_a_node_that_is_killed(machine):
    machine.model('odometry_node')
    machine.tell('hold')
    with machine.start('odometry_node') as process:
        wait_until(machine.builds)
        process.stop(signal.SIGKILL)
    with machine.start('odometry_node') as process:
        process.wait_for('waiting for another build')
        machine.untell('hold')
        process.wait_for('TensorRT: agrees')
        ends_well(process)
    assert len(machine.builds()) == 1


@pytest.mark.parametrize('stubborn', [False, True])
def test_stopping_stops_the_build(machine, peer, stubborn):
    machine.model('odometry_node')
    machine.tell('hold', *(['stubborn'] if stubborn else []))
    with machine.start('odometry_node') as process:
        process.wait_for('which kernels')
        wait_until(lambda: len(machine.builds()) == 1)
        assert is_running(machine.builds()[0])
        assert peer.change('odometry_node', 'deactivate')
        assert not is_running(machine.builds()[0])
        assert machine.files() == ['odometry_node.onnx']
        found = peer.diagnostics_after('odometry_node', lambda d: d['state'] == 'inactive')
        assert found['tensorrt'] == 'the build was stopped'
        assert peer.change('odometry_node', 'activate')
        wait_until(lambda: len(machine.builds()) == 2)
        ends_well(process)
    assert not is_running(machine.builds()[1])
    assert machine.files() == ['odometry_node.onnx']
    assert 'failed' not in process.output


def test_what_changes_before_a_build(machine, peer):
    """Somebody else builds the engine, or the model is another than the node has loaded."""
    source = machine.model('odometry_node')
    machine.tell('hold')
    with machine.start('odometry_node', before=('nice', '-n', '15')) as process:
        wait_until(machine.builds)
        assert os.getpriority(os.PRIO_PROCESS, machine.builds()[0]) >= 15
        assert peer.change('odometry_node', 'deactivate')
        machine.untell('hold')
        subprocess.run(
            [sys.executable, '-m', 'depth_ros.commands.build_engine', source],
            env={**os.environ, **machine.environment},
            check=True,
        )
        assert peer.change('odometry_node', 'activate')
        process.wait_for('TensorRT: agrees')
        assert len(machine.builds()) == 2
        save_pose(source, motion=(0, 0, 0, 0, 0, 0.25))
        assert configure_again(peer, 'odometry_node')
        save_pose(source, motion=(0, 0, 0, 0, 0, 0.125))
        assert peer.change('odometry_node', 'activate')
        process.wait_for('has changed since it was loaded')
        found = peer.diagnostics_after('odometry_node', lambda d: 'has changed' in d['tensorrt'])
        assert found['backend'] == CPU and len(machine.builds()) == 3
        ends_well(process)


@pytest.mark.parametrize(
    ('how', 'reason'),
    [('fail', 'cannot build the model: out of memory'), ('crash', 'ended with SIGABRT')],
)
def test_a_build_that_fails_costs_only_a_message(machine, peer, how, reason):
    machine.model('perception_node')
    machine.tell(how)
    (machine.models / '.perception_node.engine.timing.1-0a.part').touch()
    with machine.start('perception_node') as process:
        assert reason in process.wait_for('the build failed')
        assert f'going on with {CPU}' in process.output
        scene = Scene(peer, process)
        scene.camera.wait_matched()
        scene.answer(['/depth/image_rect'])
        found = peer.diagnostics_after('perception_node', lambda d: float(d['rate_hz']))
        assert reason in found['tensorrt'] and found['backend'] == CPU
        status = peer.messages['/diagnostics'][-1].status[0]
        assert status.level == DiagnosticStatus.WARN and 'without TensorRT' in status.message
        # Not again and again.
        assert peer.change('perception_node', 'deactivate')
        assert peer.change('perception_node', 'activate')
        scene.camera.wait_matched()
        scene.answer(['/depth/image_rect'])
        assert process.output.count('the build failed') == len(machine.builds()) == 1
        ends_well(process)
    assert machine.files() == ['perception_node.onnx']


def test_a_model_that_is_quantised_for_the_cpu_stays_there(machine, tmp_path):
    """The message advises what a node has, which is no --precision."""
    model = quantize(
        save_network(tmp_path / 'net.onnx'),
        write_pictures(tmp_path / 'some', 6, 0),
        runtime='onnxruntime',
    )
    onnx.save(model, machine.models / 'perception_node.onnx')
    with machine.start('perception_node', auto_build='fp16') as process:
        line = process.wait_for('the build failed')
        assert "perception_node.onnx' is quantised for onnxruntime" in line
        assert 'parameter backend to onnxruntime, or model to the original file' in line
        ends_well(process)


def test_two_nodes_with_one_model_build_it_once(machine):
    machine.model('perception_node')
    machine.tell('hold')
    names = ('left', 'right')
    with (
        machine.start('perception_node', remap={'__node': names[0]}) as first,
        machine.start('perception_node', remap={'__node': names[1]}) as second,
    ):
        wait_until(lambda: 'waiting for another build' in first.output + second.output)
        machine.untell('hold')
        for process in (first, second):
            process.wait_for('TensorRT: agrees')
            ends_well(process)
    assert len(machine.builds()) == 1


def test_a_model_in_a_folder_that_cannot_be_written(machine):
    source = machine.model('odometry_node')
    before = ()
    if os.geteuid() == 0:  # who may write everywhere
        if shutil.which('setpriv') is None:
            pytest.skip(
                'root can write everywhere; setpriv, which would take that away, is not installed'
            )
        before = ('setpriv', '--bounding-set=-dac_override', '--inh-caps=-dac_override', '--')
    machine.models.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with machine.start('odometry_node', before=before) as process:
            process.wait_for('TensorRT: agrees')
            ends_well(process)
        assert machine.files() == ['odometry_node.onnx']
        cache = machine.models.parent / 'ros' / 'depth_ros'
        found = {path.name for path in cache.iterdir()}
        assert len(found) == 3 and all(name.startswith('odometry_node-') for name in found)
        (engine,) = cache.glob('*.engine')
        assert read_record(engine).command == (
            f'build_engine {source} --precision fp32 --output {engine}'
        )
        with machine.start('odometry_node', before=before) as process:
            process.wait_for('on tensorrt')
            ends_well(process)
        assert len(machine.builds()) == 1
        # The command builds there too.
        subprocess.run(
            [*before, sys.executable, '-m', 'depth_ros.commands.build_engine', source],
            env={**os.environ, **machine.environment},
            check=True,
        )
        assert len(machine.builds()) == 2
        assert {path.name for path in cache.iterdir()} == found
    finally:
        machine.models.chmod(stat.S_IRWXU)


@pytest.mark.parametrize(
    ('driver', 'reason'), [(True, 'no device'), (False, 'Failed to dlopen libcuda.so.1')]
)
def test_without_a_gpu_nothing_is_built(machine, peer, driver, reason):
    machine.environment[tensorrt_machine.GPUS] = '0'
    if not driver:
        machine.tell('nodriver')
    source = machine.model('odometry_node')
    with machine.start('odometry_node') as process:
        assert 'needs an NVIDIA GPU' in process.wait_for('no engine is built')
        peer.wait_state('odometry_node', 'active')
        assert (
            reason
            in peer.diagnostics_after('odometry_node', lambda d: d['backend'] == CPU)['tensorrt']
        )
        assert process.output.count('NVIDIA') == 1
        # An engine from elsewhere: taken by itself it must run, beside the model it may.
        save_engine(source)
        assert not configure_again(peer, 'odometry_node', model=str(source.with_suffix('.engine')))
        assert 'needs an NVIDIA GPU' in process.wait_for('cannot configure')
        assert peer.set_parameters('odometry_node', model=str(source)).successful
        assert peer.change('odometry_node', 'configure')
        assert peer.change('odometry_node', 'activate')
        assert process.output.count('NVIDIA') == 3
        assert peer.diagnostics_after('odometry_node', lambda d: d['backend'])['backend'] == CPU
        ends_well(process)
    assert machine.builds() == []


def test_where_auto_build_has_no_effect(machine):
    machine.model('odometry_node')
    with machine.start('odometry_node', backend='onnxruntime') as process:
        process.wait_for('auto_build has no effect')
        process.wait_for('active: waiting')
        ends_well(process)
    assert machine.builds() == []


def test_an_engine_that_cannot_be_checked_is_a_warning(machine, peer):
    source = machine.model('perception_node')
    save_engine(source)
    source.rename(machine.models / 'elsewhere.onnx')
    with machine.start('perception_node', 'never', model=source.with_suffix('.engine')) as process:
        line = process.wait_for('is not compared with the CPU')
        assert '[WARN]' in line and f"'{source}', of which it was built, is not there" in line
        process.wait_for('active: waiting')
        found = peer.diagnostics_after('perception_node', lambda d: 'not compared' in d['tensorrt'])
        assert found['backend'] == 'tensorrt'
        ends_well(process)


def test_a_build_whose_engine_is_there_ends_without_a_driver_too(built, monkeypatch):
    source, cuda = built
    before = (source.parent / 'builds').read_text()
    for lazy in (None, False, True):
        if lazy is not None:
            monkeypatch.setattr(cuda, 'devices', None)
            monkeypatch.setattr(cuda, 'lazy', lazy)
        ends = []
        EngineBuild(source, 'fp32', print, ends.append)
        wait_until(lambda ends=ends: ends)
        assert ends == ['']
    assert (source.parent / 'builds').read_text() == before


# On a GPU: pytest -m gpu


@pytest.mark.gpu
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize(
    ('node', 'name'), [('perception_node', 'perception.onnx'), ('odometry_node', 'pose.onnx')]
)
def test_a_node_builds_on_the_gpu(gpu, repository, tmp_path, peer, node, name, precision):
    source = shutil.copy(repository / 'models' / name, tmp_path)
    topic, _ = TOPICS[node]
    with NodeProcess(node, {'model': source, 'auto_build': precision}) as process:
        peer.wait_state(node, 'active')
        scene = Scene(peer, process)
        scene.camera.wait_matched()
        random = np.random.default_rng(0)

        def answer():
            picture = random.integers(0, 256, (192, 640, 3), np.uint8)
            scene.answer([topic], image=image_message(picture, 0))

        scene.send()
        answer()
        process.wait_for('TensorRT: agrees with', timeout=1500)
        answer()
        process.wait_for('now on tensorrt')
        answer()
        found = peer.diagnostics_after(node, lambda d: d['backend'] == 'tensorrt')
        assert found['failed'] == '0'
        ends_well(process)


@pytest.mark.gpu
def test_stopping_stops_the_build_on_the_gpu(gpu, repository, tmp_path, peer):
    source = shutil.copy(repository / 'models' / 'perception.onnx', tmp_path)
    with NodeProcess('perception_node', {'model': source, 'auto_build': 'fp16'}) as process:
        process.wait_for('which kernels are fastest')
        ends_well(process)
    assert [path.name for path in tmp_path.iterdir()] == ['perception.onnx']

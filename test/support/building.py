"""Nodes that build engines, on a machine with stand-ins for a GPU and TensorRT."""

import os
import time

from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image

from depth_ros.files import file_hash
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine_file import (
    EngineRecord,
    record_path,
)
from depth_ros.inference.loader import installed_backends
from depth_ros.inference.runtimes.tensorrt import find_gpu
from support import tensorrt_machine
from support.onnx_models import save_perception, save_pose
from support.ros_process import NodeProcess

CPU = installed_backends()[0]
NODES = {'perception_node': save_perception, 'odometry_node': save_pose}
TOPICS = {'perception_node': ('/depth/image_rect', Image), 'odometry_node': ('/odom', Odometry)}


class Machine:
    """A machine with stand-ins for a GPU and TensorRT, and the nodes that run on it."""

    def __init__(self, folder):
        self.folder, self.models = folder / 'machine', folder / 'models'
        self.folder.mkdir()
        self.models.mkdir()
        self.environment = {
            **tensorrt_machine.environment(self.folder),
            'ROS_HOME': str(folder / 'ros'),
        }

    def model(self, node, **options):
        return NODES[node](self.models / f'{node}.onnx', **options)

    def start(self, node, auto_build='fp32', remap=None, before=(), **parameters):
        if node == 'odometry_node':
            parameters = {'refinement': 'none', **parameters}  # the same picture again and again
        parameters = {'model': self.models / f'{node}.onnx', 'auto_build': auto_build, **parameters}
        return NodeProcess(node, parameters, remap, environment=self.environment, before=before)

    def tell(self, *names):
        for name in names:
            (self.folder / name).touch()

    def untell(self, name):
        (self.folder / name).unlink()

    def builds(self):
        """Process ids of the builds so far."""
        file = self.folder / 'builds'
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def files(self):
        return sorted(path.name for path in self.models.iterdir())


def ends_well(*processes):
    for process in processes:
        assert process.stop() == 0
        assert 'Traceback' not in process.output, process.output


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, 'it does not happen'
        time.sleep(0.02)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def save_engine(source):
    """An engine as from the machine with the stand-ins, without a build."""
    path = source.with_suffix('.engine')
    path.write_bytes(source.read_bytes())
    record_path(path).write_text(
        EngineRecord(
            contract=read_contract(source),
            source=source.name,
            source_sha256=file_hash(source),
            precision='fp32',
            tensorrt=tensorrt_machine.TENSORRT.__version__,
            cuda=12060,
            gpu=find_gpu(tensorrt_machine.CUDA),
            command=f'build_engine {source} --output {path}',
        ).to_json()
    )


def engine_names(node):
    return [f'{node}.{end}' for end in ('engine', 'engine.json', 'engine.timing')]

"""The odometry node with refinement, over DDS: each input that cameras give now and then."""

import numpy as np
import pytest
from nav_msgs.msg import Odometry
from std_msgs.msg import Float32
from support import corridor
from support.onnx_models import save_pose
from support.ros_process import Camera, NodeProcess, Peer, image_message, info_message, stamp

from depth_ros.core.se3 import OPTICAL_IN_BASE, inverse, pose_from_list

pytestmark = pytest.mark.slow

BASE = pose_from_list(OPTICAL_IN_BASE)
STEP = 0.2  # metres an image


@pytest.fixture(scope='module')
def drive():
    """Pictures of a drive, and its poses."""
    textures = [corridor.texture(n) for n in range(4)]
    places = [corridor.pose_at(i, STEP) for i in range(24)]
    greys = [corridor.render(p, textures)[0] for p in places]
    return [np.repeat(g[..., None], 3, axis=2) for g in greys], places


def frames(pictures):
    """Stamp in periods, picture and frame_id of everything that the camera publishes."""
    black = np.zeros_like(pictures[0])
    yield from ((i, pictures[0], 'camera') for i in range(4))  # stands
    for i in range(1, 10):
        yield 3 + i, pictures[i], 'camera'
    yield 12, pictures[9], 'camera'  # doubled
    yield 13, pictures[20], 'rear'  # another camera
    yield 13, pictures[10], 'camera'
    # 14 is dropped
    yield 15, pictures[12], 'camera'
    yield 14, pictures[11], 'camera'  # late
    yield 16, black, 'camera'  # the lens is blocked
    yield 17, black, 'camera'
    for i in range(15, 20):
        yield 3 + i, pictures[i], 'camera'
    for i in range(20, 24):  # another exposure
        yield 3 + i, np.clip(1.4 * pictures[i].astype(float), 0, 255).astype(np.uint8), 'camera'
    yield 60, pictures[23], 'camera'  # stood still over a long gap


def test_nothing_is_silently_wrong(drive, tmp_path):
    pictures, places = drive
    model = save_pose(tmp_path / 'pose.onnx', motion=(0, 0, 0, 0, 0, 0))
    parameters = {'model': model, 'camera_height': corridor.CAMERA_HEIGHT, 'threads': 1}
    info = info_message(corridor.WIDTH, corridor.HEIGHT, corridor.FOCAL)
    with NodeProcess('odometry_node', parameters) as process, Peer() as peer:
        peer.listen(Odometry, '/odom')
        peer.listen(Float32, '/trust')
        peer.listen_diagnostics()
        peer.wait_state('odometry_node', 'active')
        camera = Camera(peer)
        camera.wait_matched()
        for count, (period, picture, frame) in enumerate(frames(pictures), 1):
            seconds = round(10 + 0.1 * period, 1)
            camera.publish(image_message(picture, seconds, frame=frame), info)
            found = peer.diagnostics_after(
                'odometry_node',
                lambda d, count=count: int(d['processed']) + int(d['failed']) == count,
            )
        odom = {round(stamp(m), 1): m for m in peer.messages['/odom']}
        trust = [m.data for m in peer.messages['/trust']]
        for text in (
            'same stamp',
            "frame 'rear' among those of 'camera'",
            'behind a newer one',
            'corners are seen again; the last velocity is kept up',
        ):
            process.wait_for(text)
        assert process.stop() == 0 and 'Traceback' not in process.output
    place = odom[10.3].pose.pose.position  # it stood
    assert (place.x, place.y, place.z) == (0, 0, 0)
    assert len(odom) == len(trust) == 26
    times = sorted(odom)
    blocked = [trust[times.index(t)] for t in (11.6, 11.7)]
    assert blocked == [0, 0] and min(t for t in trust if t) > 0.2
    spread = {t: m.pose.covariance[0] for t, m in odom.items()}
    assert spread[11.6] > spread[11.5] + 1e-4
    end = odom[12.6].pose.pose.position
    true = (BASE @ inverse(places[0]) @ places[-1] @ inverse(BASE))[:3, 3]
    assert np.linalg.norm([end.x - true[0], end.y - true[1], end.z - true[2]]) < 0.15 * true[0]
    last = odom[16.0].pose.pose.position
    assert (last.x, last.y, last.z) == (end.x, end.y, end.z)
    assert found['scale_source'] == 'height' and found['standing'] == 'true'
    assert float(found['trust']) == 1.0

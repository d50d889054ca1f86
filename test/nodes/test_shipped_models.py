"""Both nodes with the models of the package: what a robot runs, with nothing else installed."""

import numpy as np
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image
from support.ros_process import Camera, NodeProcess, Peer, image_message, info_message


def test_shipped_models_run():
    with (
        NodeProcess('perception_node') as perception,
        NodeProcess('odometry_node') as odometry,
        Peer() as peer,
    ):
        peer.listen(Image, '/depth/image_rect')
        peer.listen(Odometry, '/odom')
        for node in ('perception_node', 'odometry_node'):
            peer.wait_state(node, 'active')
        camera = Camera(peer)
        camera.wait_matched(nodes=2)
        rgb = np.random.default_rng(0).integers(0, 255, (192, 640, 3), np.uint8)
        for i in range(100):
            camera.publish(image_message(rgb, 1 + 0.1 * i), info_message(640, 192, 400.0))
            peer.spin_for(0.2)
            if all(peer.messages[t] for t in ('/depth/image_rect', '/odom')):
                break
        assert all(peer.messages[t] for t in ('/depth/image_rect', '/odom'))
        for process in (perception, odometry):
            assert process.stop() == 0 and 'Traceback' not in process.output

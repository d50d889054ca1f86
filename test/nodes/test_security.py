"""The SROS 2 policy allows what the nodes really use, and no more."""

from xml.etree import ElementTree

import pytest
from sensor_msgs.msg import Image
from support.ros_process import ROOT, NodeProcess, Peer

POLICY = ROOT / 'config' / 'sros2_policy.xml'

# Only with some parameters, or where a package is installed.
SOMETIMES = (
    {('subscribe', name) for name in ('clock', 'tf', 'tf_static', 'wheel_odom', 'speed', 'imu')}
    | {
        ('subscribe', name)  # use_depth
        for name in ('depth/image_rect', 'depth/camera_info', 'semantics/labels')
    }
    | {('subscribe', 'image/compressed'), ('publish', 'tf'), ('publish', 'semantics/label_info')}
)


def allowed(node):
    """(kind, name) of each permission of a node in the policy."""
    (profile,) = ElementTree.parse(POLICY).findall(f'.//profile[@node="{node}"]')
    return {
        (kind, entry.text)
        for group in profile
        for kind, value in group.attrib.items()
        for entry in group
        if value == 'ALLOW'
    }


def used(peer, node):
    """(kind, name) of each topic and service of a running node."""
    names = {
        'publish': peer.node.get_publisher_names_and_types_by_node,
        'subscribe': peer.node.get_subscriber_names_and_types_by_node,
        'reply': peer.node.get_service_names_and_types_by_node,
    }
    if node not in peer.node.get_node_names():
        return set()
    return {
        (kind, name.lstrip('/'))
        for kind, list_names in names.items()
        for name, _ in list_names(node, '/')
    }


@pytest.mark.parametrize('node', ['perception_node', 'odometry_node'])
def test_the_policy_is_what_the_nodes_use(node):
    with NodeProcess(node) as process, Peer() as peer:
        process.wait_for('active: waiting')
        peer.listen(Image, '/depth/image_rect')  # or images are not subscribed
        peer.spin_until(
            lambda: {('subscribe', 'image'), ('publish', 'events')} <= used(peer, node),
            what='topics',
        )
        peer.spin_for(1.0)
        found, permitted = used(peer, node), allowed(node)
        assert found <= permitted, f'add to {POLICY.name}: {sorted(found - permitted)}'
        assert permitted - found <= SOMETIMES, sorted(permitted - found - SOMETIMES)
        assert process.stop() == 0

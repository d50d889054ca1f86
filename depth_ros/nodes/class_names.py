"""What the class ids mean, for whoever subscribes: sent once, and kept for who comes late.

``semantics/classes`` is JSON in a std_msgs/String; ``semantics/label_info`` is
vision_msgs/LabelInfo, where vision_msgs is installed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import String

from depth_ros.core.labels import UNLABELED
from depth_ros.inference.contract import ModelContract, SemanticClass
from depth_ros.ros.transport import EVENT_QOS


class ClassNames:
    """The publishers of a model's class names."""

    def __init__(self, node: LifecycleNode, contract: ModelContract) -> None:
        """Create them on a node; they speak with :meth:`publish`."""
        self._node = node
        self._messages: list[tuple[Any, Any]] = []
        if not contract.classes:
            return
        self._add('semantics/classes', class_table(contract.name, contract.classes))
        info = label_info(contract.classes)
        if info is not None:
            info.header.stamp = node.get_clock().now().to_msg()
            self._add('semantics/label_info', info)

    def _add(self, topic: str, message: Any) -> None:
        publisher = self._node.create_lifecycle_publisher(type(message), topic, EVENT_QOS)
        self._messages.append((publisher, message))

    def publish(self) -> None:
        """Send them; the node must be active."""
        for publisher, message in self._messages:
            publisher.publish(message)

    def close(self) -> None:
        """Remove the publishers."""
        for publisher, _ in self._messages:
            self._node.destroy_lifecycle_publisher(publisher)
        self._messages.clear()


def class_table(model: str, classes: Sequence[SemanticClass]) -> String:
    """Return ids, names and colours of classes as JSON."""
    table = {
        'model': model,
        'unlabeled': UNLABELED,
        'classes': [asdict(item) for item in classes],
    }
    return String(data=json.dumps(table))


def label_info(classes: Sequence[SemanticClass]) -> Any | None:
    """Return ids and names as vision_msgs/LabelInfo; None where vision_msgs does not have it."""
    try:
        from vision_msgs.msg import (  # pyright: ignore[reportMissingImports]
            LabelInfo,
            VisionClass,
        )
    except ImportError:
        return None
    names = [VisionClass(class_id=item.id, class_name=item.name) for item in classes]
    return LabelInfo(class_map=names)

"""A recording that several files of tests read."""

from pathlib import Path

import pytest


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A recording with one picture and its camera_info."""
    from support.bag_files import write  # here, as they need rosbags
    from support.bag_messages import RGB, camera_info, image

    return write(
        tmp_path / 'plain', {'/cam/image': image(RGB, 'rgb8'), '/cam/camera_info': camera_info()}
    )

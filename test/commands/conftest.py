"""Networks for the tests of commands."""

import pytest


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Folder with tiny networks whose outputs are known."""
    from support import onnx_models

    folder = tmp_path_factory.mktemp('models')
    onnx_models.save_perception(folder / 'perception.onnx')
    onnx_models.save_pose(folder / 'pose.onnx')
    return folder

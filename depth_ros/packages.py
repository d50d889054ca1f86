"""Optional Python packages: what is missing is one sentence that says what to install."""

from __future__ import annotations

from importlib.util import find_spec

_PIP_NAMES = {
    'cuda': 'cuda-bindings',
    'cv2': 'opencv-python-headless',
    'tensorrt_rtx': 'tensorrt-rtx-cu13',
    'yaml': 'pyyaml',
}
"""Names for pip, of modules that are called otherwise."""

_ROS = ('rclpy', 'sensor_msgs', 'nav_msgs', 'lifecycle_msgs', 'rosgraph_msgs')


class MissingPackageError(ImportError):
    """An optional package is not installed; the message says what needs it and what to install."""


def missing_packages(*modules: str) -> list[str]:
    """Return those of the top-level `modules` that cannot be imported, without importing any."""
    return [name for name in modules if find_spec(name) is None]


def require_packages(purpose: str, *modules: str) -> None:
    """Check, before long work, that the packages for it are installed.

    Args:
        purpose: What needs them, as the subject of a sentence in the singular: 'the report',
            "reading 'drive.mcap'".
        modules: Top-level modules, as imported.

    Raises:
        MissingPackageError: if at least one is not installed; names all of them and the remedy.
    """
    missing = missing_packages(*modules)
    if not missing:
        return
    names = [_PIP_NAMES.get(name, name) for name in missing if name not in _ROS]
    remedies = [f'pip install {" ".join(names)}'] if names else []
    if len(names) < len(missing):
        remedies.insert(0, "source ROS 2's setup file, or pip install 'depth_ros[ros]'")
    plural = len(missing) > 1
    raise MissingPackageError(
        f'{purpose} needs {"Python packages" if plural else "a Python package"} that '
        f'{"are" if plural else "is"} not installed ({", ".join(missing)}): {"; ".join(remedies)}',
        name=missing[0],
    )

"""Where the files are that come with the package: models, configuration, launch files."""

from __future__ import annotations

import sysconfig
from pathlib import Path


def share_path(relative: str) -> Path:
    """A file of this package, such as ``config/fastdds.xml``, in a checkout or installed.

    The checkout comes first, so that a developer's file wins over an older installation.

    Raises:
        FileNotFoundError: if neither has the file.
    """
    tried = [Path(__file__).resolve().parents[1] / relative]
    if tried[0].exists():
        return tried[0]
    try:
        from ament_index_python.packages import get_package_share_directory

        tried.append(Path(get_package_share_directory('depth_ros')) / relative)
    except (ImportError, LookupError, OSError):
        pass  # no ament, not installed there, or no AMENT_PREFIX_PATH
    # pip installs data files below the interpreter's prefix, which is no ament prefix by itself.
    tried.append(Path(sysconfig.get_path('data')) / 'share' / 'depth_ros' / relative)
    for path in tried[1:]:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"depth_ros's file '{relative}' is not in {', '.join(map(str, tried))}; "
        'install the package again'
    )

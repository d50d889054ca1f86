"""The ament_python side of the package: what colcon installs, and where.

Name, version and licence come from package.xml; dependencies and tools are in pyproject.toml.
"""

from glob import glob
from xml.etree import ElementTree

from setuptools import setup

manifest = ElementTree.parse('package.xml')
name = manifest.findtext('name')
share = f'share/{name}'

setup(
    name=name,
    version=manifest.findtext('version'),
    license=manifest.findtext('license'),
    python_requires='>=3.10',
    packages=[name],
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{name}']),
        (share, ['package.xml']),
        (f'{share}/launch', glob('launch/*.launch.py')),
        (f'{share}/config', glob('config/*')),
        (f'{share}/frames', glob('frames/*')),
        (f'{share}/models', glob('models/*')),
    ],
    entry_points={
        'console_scripts': [
            f'perception_node = {name}.perception_node:main',
            f'odometry_node = {name}.odometry_node:main',
            f'evaluate_bag = {name}.evaluate_bag:main',
            f'depth_ros_demo = {name}.demo:main',
            f'depth_ros_bench = {name}.bench:main',
            f'adopt_model = {name}.adopt_model:main',
            f'build_engine = {name}.build_engine:main',
            f'compare_engines = {name}.compare_engines:main',
            f'quantize = {name}.int8:main',
            f'bench_engine = {name}.bench_engine:main',
        ],
    },
    zip_safe=False,
)

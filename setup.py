"""The ament_python side of the package: what colcon installs, and where.

Name, version and licence come from package.xml; dependencies and tools are in pyproject.toml.
"""

from glob import glob
from xml.etree import ElementTree

from setuptools import find_packages, setup

manifest = ElementTree.parse('package.xml')
name = manifest.findtext('name')
share = f'share/{name}'

setup(
    name=name,
    version=manifest.findtext('version'),
    license=manifest.findtext('license'),
    python_requires='>=3.10',
    packages=find_packages(include=[name, f'{name}.*']),
    package_data={f'{name}.evaluation.report': ['templates/*', 'templates/*/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{name}']),
        (share, ['package.xml']),
        (f'{share}/launch', glob('launch/*.launch.py')),
        (f'{share}/config', glob('config/*')),
        (f'{share}/models/frames', glob('models/frames/*')),
        (f'{share}/models/synthetic', glob('models/synthetic/*')),
        (f'{share}/models', glob('models/*.*')),
    ],
    entry_points={
        'console_scripts': [
            f'perception_node = {name}.nodes.start:perception_node',
            f'odometry_node = {name}.nodes.start:odometry_node',
            f'evaluate_bag = {name}.commands.evaluate_bag:main',
            f'depth_ros_demo = {name}.commands.demo:main',
            f'depth_ros_bench = {name}.commands.bench:main',
            f'depth_ros_train = {name}.commands.train:main',
            f'adopt_model = {name}.commands.adopt_model:main',
            f'build_engine = {name}.commands.build_engine:main',
            f'compare_engines = {name}.commands.compare_engines:main',
            f'quantize = {name}.commands.quantize:main',
            f'bench_engine = {name}.commands.bench_engine:main',
        ],
    },
    zip_safe=False,
)

"""The ROS 2 package around the node: its command, launch file and parameters. colcon runs it."""

from setuptools import setup

NAME = "esam_rt_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/esam.launch.xml"]),
        (f"share/{NAME}/config", ["config/esam.yaml"]),
    ],
    zip_safe=True,
    entry_points={"console_scripts": ["entity_node = esam_rt.integrations.ros.entity_node:main"]},
)

# depth_ros on ROS 2 Jazzy, amd64 or arm64, inference on the processor. In the repository:
#
#   docker build -t depth_ros -f docker/jazzy.Dockerfile .
#   docker run --rm --net=host --ipc=host depth_ros image_topic:=/camera/image_rect \
#     camera_info_topic:=/camera/camera_info
#
# --ipc=host (or --shm-size=1g): large images travel through shared memory.
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Ubuntu 24.04's Python is externally managed; rosdep installs ONNX Runtime by pip.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1
WORKDIR /ws

# What it depends on changes less often than the code.
COPY package.xml src/depth_ros/
RUN apt-get update \
  && apt-get install -y --no-install-recommends python3-pip \
  && rosdep update --rosdistro jazzy \
  && rosdep install --from-paths src --ignore-src -y --rosdistro jazzy \
  && rm -rf /var/lib/apt/lists/*

COPY . src/depth_ros
RUN source /opt/ros/jazzy/setup.bash && colcon build --packages-select depth_ros

ENTRYPOINT ["/bin/bash", "-c", "source /ws/install/setup.bash && exec ros2 launch depth_ros depth_ros.launch.py \"$@\"", "--"]

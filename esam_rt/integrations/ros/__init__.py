"""A ROS 2 node that segments every entity of a camera's images. docs/howto/ros.md explains it.

``rclpy`` is imported by ``entity_node`` alone. All else runs and is tested without ROS.
"""

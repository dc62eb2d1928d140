import rclpy

from perception_nodes.nodes.consumed_topic import ConsumedTopic
from perception_nodes.protection.consumer import Content, Verdict


def plan(verdict: Verdict) -> None:
    if verdict.message is not None:  # a serialized vision_msgs/Detection2DArray
        print(f"{verdict.state.name}: {len(verdict.message)} bytes of objects")


rclpy.init()
node = rclpy.create_node("planner")
objects = ConsumedTopic(node, "/perception/detections", plan)
health = ConsumedTopic(node, "/perception/health", content=Content.HEALTH)
stop = ConsumedTopic(node, "/perception/safe_stop", content=Content.SAFE_STOP)
topics = (objects, health, stop)
node.create_timer(0.05, lambda: print("mode", max(topic.mode() for topic in topics).name))
rclpy.spin(node)

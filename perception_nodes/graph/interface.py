"""What each node publishes, subscribes to, serves and calls: its permissions in SROS 2."""

from collections.abc import Sequence
from dataclasses import dataclass

from perception_nodes.graph import config, topics
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS, RosArguments

EVERY_NODE_PUBLISHES = ("/rosout", "/parameter_events", "~/transition_event")
EVERY_NODE_SERVES = tuple(
    f"~/{name}"
    for name in """
        change_state get_state get_available_states get_available_transitions get_transition_graph
        describe_parameters get_parameter_types get_parameters list_parameters set_parameters
        set_parameters_atomically get_type_description
    """.split()
)


@dataclass
class Interface:
    """A node's topics and services, by their full names."""

    publishes: set[str]
    subscribes: set[str]
    serves: set[str]
    calls: set[str]


def interfaces(
    specs: Sequence[NodeSpec], ros: RosArguments = NO_ROS_ARGUMENTS
) -> dict[str, Interface]:
    """The interface of each node of a live graph, by the node's full name."""
    detectors = {s.full_name for s in specs if isinstance(s.settings, config.DetectorSettings)}
    return {spec.full_name: _interface(spec, detectors, ros) for spec in specs}


def _interface(spec: NodeSpec, detectors: set[str], ros: RosArguments) -> Interface:
    settings = spec.settings
    publishes, subscribes = [*EVERY_NODE_PUBLISHES], [*(["/clock"] * settings.use_sim_time)]
    serves, calls = [*EVERY_NODE_SERVES], list[str]()

    def of_each_camera(*names: str) -> list[str]:
        return [settings.topic_of(topic, camera) for camera in settings.served for topic in names]

    def with_copy(names: list[str]) -> list[str]:
        return names + [topics.protected(topic) for topic in names]

    match settings:
        case config.WatchdogSettings():
            told = [*of_each_camera(topics.FRAME_REPORTS, topics.HEALTH), settings.safe_stop_topic]
            publishes += [*with_copy(told), "/diagnostics"]
            if settings.safe_stop_clears == "by_service":
                serves.append(f"{settings.safe_stop_topic}/release")
        case config.DetectorSettings():
            serves.append(topics.ENABLE)
            publishes += of_each_camera(topics.VISION_INFO)
            publishes += with_copy(of_each_camera(settings.detections_topic))
            # The detector speaks for the watchdog while that is gone.
            publishes += with_copy([*of_each_camera(topics.HEALTH), settings.safe_stop_topic])
        case config.PreprocessSettings():
            if settings.source == "dds":
                topic = topics.image_topic(settings.image_topic, settings.image_transport)
                subscribes.append(topic)
            if not settings.calibration_file:
                subscribes.append(topics.info_topic(settings.image_topic))
        case config.CameraSettings():
            subscribes += of_each_camera(topics.HEALTH)
        case config.TrackerSettings():
            publishes += of_each_camera(topics.TRACKED_DETECTIONS)
            publishes += with_copy(of_each_camera(topics.TRACKS))
        case config.RepublishSettings():
            compressed = topics.image_topic(settings.image_topic, "compressed")
            publishes += [settings.image_topic, compressed]
            if settings.calibration_file:
                publishes.append(topics.info_topic(settings.image_topic))
        case config.ViewSettings():
            publishes += of_each_camera(topics.ANNOTATED, topics.ANNOTATIONS)
            subscribes += of_each_camera(
                topics.FRAME_REPORTS, topics.HEALTH, topics.VISION_INFO, topics.TRACKED_DETECTIONS
            )
            subscribes.append(settings.safe_stop_topic)
            calls += [f"{detector}/get_parameters" for detector in detectors]
    kinds = publishes, subscribes, serves, calls
    return Interface(*({ros.topic_of(spec.name, name) for name in names} for names in kinds))

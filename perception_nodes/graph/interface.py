"""What each node publishes, subscribes to, serves and calls: its permissions in SROS 2."""

from collections.abc import Sequence
from dataclasses import dataclass

from perception_nodes.graph.config import (
    CameraSettings,
    DetectorSettings,
    PreprocessSettings,
    RepublishSettings,
    TrackerSettings,
    ViewSettings,
    WatchdogSettings,
)
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS, RosArguments
from perception_nodes.graph.topics import (
    ANNOTATED,
    ANNOTATIONS,
    FRAME_REPORTS,
    HEALTH,
    TRACKED_DETECTIONS,
    TRACKS,
    VISION_INFO,
    image_topic,
    info_topic,
    protected,
)

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
    detectors = {spec.full_name for spec in specs if isinstance(spec.settings, DetectorSettings)}
    return {spec.full_name: _interface(spec, detectors, ros) for spec in specs}


def _interface(spec: NodeSpec, detectors: set[str], ros: RosArguments) -> Interface:
    settings = spec.settings
    publishes, subscribes = [*EVERY_NODE_PUBLISHES], [*(["/clock"] * settings.use_sim_time)]
    serves, calls = [*EVERY_NODE_SERVES], list[str]()

    def of_each_camera(*topics: str) -> list[str]:
        return [settings.topic_of(topic, camera) for camera in settings.served for topic in topics]

    def with_copy(topics: list[str]) -> list[str]:
        return topics + [protected(topic) for topic in topics]

    match settings:
        case WatchdogSettings():
            topics = [*of_each_camera(FRAME_REPORTS, HEALTH), settings.safe_stop_topic]
            publishes += [*with_copy(topics), "/diagnostics"]
            if settings.safe_stop_clears == "by_service":
                serves.append(f"{settings.safe_stop_topic}/release")
        case DetectorSettings():
            publishes += of_each_camera(VISION_INFO)
            publishes += with_copy(of_each_camera(settings.detections_topic))
            # The detector speaks for the watchdog while that is gone.
            publishes += with_copy([*of_each_camera(HEALTH), settings.safe_stop_topic])
        case PreprocessSettings():
            if settings.source == "dds":
                subscribes.append(image_topic(settings.image_topic, settings.image_transport))
            if not settings.calibration_file:
                subscribes.append(info_topic(settings.image_topic))
        case CameraSettings():
            subscribes += of_each_camera(HEALTH)
        case TrackerSettings():
            publishes += of_each_camera(TRACKED_DETECTIONS)
            publishes += with_copy(of_each_camera(TRACKS))
        case RepublishSettings():
            publishes += [settings.image_topic, image_topic(settings.image_topic, "compressed")]
            if settings.calibration_file:
                publishes.append(info_topic(settings.image_topic))
        case ViewSettings():
            publishes += of_each_camera(ANNOTATED, ANNOTATIONS)
            subscribes += of_each_camera(FRAME_REPORTS, HEALTH, VISION_INFO, TRACKED_DETECTIONS)
            subscribes.append(settings.safe_stop_topic)
            calls += [f"{detector}/get_parameters" for detector in detectors]
    return Interface(
        *(
            {ros.topic_of(spec.name, name) for name in names}
            for names in (publishes, subscribes, serves, calls)
        )
    )

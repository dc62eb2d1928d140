"""Settings as ROS parameters: declared, described, read and checked."""

from collections.abc import Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode

from perception_nodes.graph.config import Settings
from perception_nodes.graph.settings import (
    SettingsError,
    allowed_range,
    check,
    is_changeable,
    numeric_range,
)


def declare_parameters(node: LifecycleNode, settings_type: type[Settings]) -> Settings:
    """Declare a ROS parameter for each setting and check the values given.

    Raises:
        SettingsError: a value is not allowed.
    """
    values = {}
    for name, field in settings_type.model_fields.items():
        descriptor = ParameterDescriptor(
            description=f"{field.description} ({allowed_range(field)})",
            read_only=not is_changeable(field),
        )
        low, high = numeric_range(field)
        if low is not None and high is not None:
            if field.annotation is int:
                bounds = {"from_value": int(low), "to_value": int(high)}
                descriptor.integer_range = [IntegerRange(**bounds)]
            else:
                limits = {"from_value": float(low), "to_value": float(high)}
                descriptor.floating_point_range = [FloatingPointRange(**limits)]
        try:
            if node.has_parameter(name):  # every node has use_sim_time already
                values[name] = node.get_parameter(name).value
            else:
                values[name] = node.declare_parameter(name, field.default, descriptor).value
        except ParameterException as error:
            allowed = f"it must be {allowed_range(field)}"
            raise SettingsError(f"parameter {name}: {error}; {allowed}") from error
    return check(settings_type, values)


def changed_settings(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Settings with other values of their changeable parameters; values of others are ignored.

    Raises:
        SettingsError: a value is not allowed, or cannot be changed while the node runs.
    """
    fields = type(settings).model_fields
    changed = {name: value for name, value in values.items() if name in fields}
    for name, value in changed.items():
        # rclpy itself refuses all of them except use_sim_time, which it declares.
        if not is_changeable(fields[name]) and value != getattr(settings, name):
            why = f"{value} cannot be set while the node runs"
            raise SettingsError(f"parameter {name}: {why}; start the graph with {name}:={value}")
    return check(type(settings), {**settings.model_dump(), **changed})

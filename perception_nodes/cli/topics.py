"""`perception topics` and `echo`: what is on the topics, where `ros2` is not installed."""

import json
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from perception_nodes.cli import options
from perception_nodes.cli.common import give
from perception_nodes.graph.ros_packages import require_ros


def topics_command(as_json: options.Json = False) -> None:
    """List the topics of this ROS domain, as `ros2 topic list --verbose` does.

    Example: perception topics --json
    """
    require_ros()
    from perception_nodes.nodes.listening import topics

    found = topics()
    table = Table("topic", "type", "publishers", "subscribers")
    for name, kind, publishers, subscribers in found:
        table.add_row(escape(name), kind, str(publishers), str(subscribers))
    give([one._asdict() for one in found], table, as_json)


def echo_command(
    topic: Annotated[str, typer.Argument(metavar="TOPIC")] = "/perception/detections",
    count: Annotated[int, typer.Option(min=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Print the messages of a topic as they come, as `ros2 topic echo` does, until Ctrl-C.

    They are YAML, or with --json an object a line. Of lists with more than 64 values, such as
    pictures, the length is printed.

    Options:
        topic: The topic; `perception topics` lists them.
        count: Stop after so many messages; 0: never.

    Example: perception echo /perception/health --count 1
    """
    require_ros()
    from perception_nodes.nodes.listening import echo

    def show(message: dict[str, Any]) -> None:
        if as_json:
            print(json.dumps(message), flush=True)
        else:
            text = yaml.safe_dump(message, sort_keys=False, allow_unicode=True)
            print(f"{text}---", flush=True)

    echo(topic, count, show)

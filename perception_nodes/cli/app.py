"""The command line: `perception COMMAND`."""

import signal

import typer
from rich.markup import escape

from perception_nodes.backends.model import ModelError
from perception_nodes.cli.bench import bench_app
from perception_nodes.cli.common import screen
from perception_nodes.cli.doctor import doctor
from perception_nodes.cli.graph import demo, run
from perception_nodes.cli.hil import hil_app
from perception_nodes.cli.model import model_app
from perception_nodes.cli.replay import replay_command
from perception_nodes.core.inference import BackendError
from perception_nodes.drives.bag import BagError
from perception_nodes.evaluation import DataError
from perception_nodes.evaluation.matching import EvaluationNotInstalled
from perception_nodes.graph.config import SettingsError
from perception_nodes.graph.supervisor import GraphFailure
from perception_nodes.hil.loading import ScenarioError
from perception_nodes.hil.unit import UnitError
from perception_nodes.preprocess.lens import UnknownLens
from perception_nodes.replay.golden import GoldenError
from perception_nodes.report.recording import RecordingError
from perception_nodes.transport.memory import TransportError

UNUSABLE = (
    BackendError,
    BagError,
    DataError,
    EvaluationNotInstalled,
    GoldenError,
    ModelError,
    RecordingError,
    ScenarioError,
    SettingsError,
    TransportError,
    UnitError,
    UnknownLens,
)
"""Input that a command cannot work with: one line, exit status 2."""

app = typer.Typer(
    help="Real-time object detection for vehicle cameras on ROS 2, every frame accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(model_app, name="model")
app.add_typer(bench_app, name="bench")
app.add_typer(hil_app, name="hil")
for command in (demo, doctor):
    app.command()(command)
# ROS arguments begin with dashes.
app.command(context_settings={"ignore_unknown_options": True})(run)
app.command("replay")(replay_command)


def main() -> int:
    """Entry point; one line for unusable input. SIGTERM ends a command as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except UNUSABLE as error:
        text = " ".join(str(error).split())
        screen.print("[red]error:[/] " + escape(text), highlight=False, soft_wrap=True)
        return 2
    except GraphFailure as error:
        screen.print(f"[red]failed:[/] {error}", highlight=False, soft_wrap=True)
        return 2
    return 0

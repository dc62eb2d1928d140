"""The command line: `perception COMMAND`."""

import errno
import os
import signal
import sys
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from threading import Timer
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perception_nodes.cli.common import say_problem
from perception_nodes.cli.described import Commands
from perception_nodes.core.errors import PerceptionError, printable
from perception_nodes.system.environment import package_version
from perception_nodes.system.life import ended_by
from perception_nodes.system.signals import STOPPING, handled_stopping, noted_signals

DETECT, MEASURE, PREPARE = "Detect", "Measure and test", "Prepare"
COMMANDS = {
    "run": (DETECT, "graph", "run"),
    "view": (DETECT, "graph", "view"),
    "demo": (DETECT, "graph", "demo"),
    "replay": (DETECT, "replay", "replay_command"),
    "topics": (DETECT, "topics", "topics_command"),
    "echo": (DETECT, "topics", "echo_command"),
    "camera": (DETECT, "camera", "camera_command"),
    "doctor": (PREPARE, "doctor", "doctor"),
    "security": (PREPARE, "security", "security_command"),
    "model": (PREPARE, "model", "model_app"),
    "cache": (PREPARE, "cache", "cache_command"),
    "messages": (PREPARE, "messages", "messages"),
    "trace": (MEASURE, "trace", "trace_command"),
    "bench": (MEASURE, "bench", "bench_app"),
    "hil": (MEASURE, "hil", "hil_app"),
    "accept": (MEASURE, "accept", "accept"),
}
"""Panel of the help, module, and function or group of each command."""
TAKE_DASHES = ("run", "view", "demo", "security", "accept")
"""Commands whose arguments may begin with dashes: those of ROS, or parameters in a wrong form."""


class LazyCommands(TyperGroup):
    """Imports the module of a command when it is used: nobody waits for those of the others."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        panel, module, attribute = COMMANDS[cmd_name]
        try:
            found = getattr(import_module(f"perception_nodes.cli.{module}"), attribute)
        except ModuleNotFoundError:
            if cmd_name in sys.argv:
                raise
            return None  # the help of a minimal installation lists what can run there
        if not isinstance(found, typer.Typer):
            context = {"ignore_unknown_options": cmd_name in TAKE_DASHES}
            alone = Commands(add_completion=False, pretty_exceptions_enable=False)
            alone.command(cmd_name, context_settings=context)(found)
            found = alone
        command: Any = typer.main.get_command(found)
        command.name, command.rich_help_panel = cmd_name, panel
        return command


app = typer.Typer(cls=LazyCommands, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"perception {package_version()}")
        raise typer.Exit


@app.callback()
def perception(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Real-time object detection for vehicle cameras on ROS 2, every frame accounted for.

    Exit status: 0 done; 1 a check failed; 2 the input cannot be used, one line says why; 130 ended
    by Ctrl-C; 143 ended by SIGTERM; 129 ended as its terminal was closed.

    Example: perception demo --bag path/to/bag
    """


def main() -> int:
    """Run the command line; returns its exit status."""
    with noted_signals() as first_signal:
        try:
            with handled_stopping(_interrupt):
                status, word, problem = _outcome()
        except (Exception, KeyboardInterrupt):
            # An interrupted import can raise ImportError instead of KeyboardInterrupt.
            if not first_signal():
                raise
        if number := first_signal():
            # An interrupt in code that runs from a string, such as that of a dataclass, counts as
            # unhandled. Python would then end the process by the signal. Running other such code
            # resets this.
            exec("")
            return ended_by(number)
    if word:
        say_problem(word, problem)
    return status


def _outcome() -> tuple[int, str, str]:
    """Run the command; return its exit status, and the error that stopped it."""
    # An empty argument comes from an unset variable, and would be the current folder.
    if "" in sys.argv[1:]:
        return 2, "error", f"argument {sys.argv.index('')} is empty; give a value, or leave it out"
    try:
        app()
    except SystemExit as end:  # typer ends every command by this
        return (end.code if isinstance(end.code, int) else 1), "", ""
    except PerceptionError as error:
        return error.status, error.word, str(error)
    except ImportError as error:  # a package is missing, or is built for another Python
        return 2, "error", f"{printable(str(error))}; perception doctor says what is missing"
    except OSError as error:  # such as a disk that fills up, which no check can foresee
        parts = [str(part) for part in (error.filename, error.strerror) if part]
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; make room (perception cache shows ours), or name another disk" if full else ""
        return 2, "error", (": ".join(parts) or str(error)) + remedy
    return 0, "", ""


NATIVE_LOADING_S = 0.05
"""A signal that came while native code was loaded is sent again after this time."""


def _loads_native(frame: FrameType | None) -> bool:
    """Whether a module of native code is being loaded."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Some native modules call Python while they are loaded. An exception there aborts the process.
    if _loads_native(frame):
        again = Timer(NATIVE_LOADING_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return
    # The command cleans up now. A second Ctrl-C does not cut that short, nor does the SIGHUP that
    # systemd sends after SIGTERM at the end of a session.
    for one in STOPPING:
        signal.signal(one, lambda *_: None)
    raise KeyboardInterrupt

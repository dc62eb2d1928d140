"""`perception hil COMMAND`: faults put into the real graph, and what it makes of them."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from perception_nodes.cli.common import JsonFlag, screen
from perception_nodes.graph.config import SettingsError
from perception_nodes.graph.graph import LIVE
from perception_nodes.hil.address import PORT, split_address
from perception_nodes.hil.loading import SUFFIXES, ScenarioError, load_scenario, shipped
from perception_nodes.hil.results import Results
from perception_nodes.hil.topology import run_scenario
from perception_nodes.hil.unit import UnitServer
from perception_nodes.hil.verdict_files import (
    problems,
    scenarios_markdown,
    scenarios_table,
    verdicts_table,
)

hil_app = typer.Typer(
    help="Hardware in the loop: a bench plays a drive with faults to the graph. Does that notice, "
    "tell, account and recover?",
    no_args_is_help=True,
)


@hil_app.command("list")
def list_command(
    as_json: JsonFlag = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of docs/faults.md.")
    ] = False,
) -> None:
    """List the scenarios that come with the package.

    Example: perception hil list
    """
    scenarios = [load_scenario(name) for name in shipped()]
    if markdown:
        print(scenarios_markdown(scenarios), end="")
    elif as_json:
        print(json.dumps([scenario.model_dump() for scenario in scenarios], indent=2))
    else:
        Console().print(scenarios_table(scenarios))


@hil_app.command("run")
def run_command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO... [NAME:=VALUE]...",
            help="Names, .yaml files, folders of such files, or all; and parameters of the graph, "
            "which go before those of the scenarios.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the outputs.")] = Path("out/hil"),
    unit: Annotated[
        str,
        typer.Option(help="HOST:PORT of a vehicle computer that runs `perception hil unit`."),
    ] = "",
    as_json: JsonFlag = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
) -> None:
    """Start the graph, put faults in, watch it as any subscriber could, and give a verdict.

    Each frame that the camera sent must be accounted for, whatever happens. Leaves report.html,
    verdicts.json, and of each scenario a recording and the nodes' messages, after Ctrl-C too.
    Exit status 1 if a scenario fails or could not be run, 2 if a scenario file is wrong.

    Example: perception hil run camera_stop detector_kill --out out/hil
    """
    given: dict[str, Any] = dict(
        argument.split(":=", 1) for argument in arguments if ":=" in argument
    )
    names = [argument for argument in arguments if ":=" not in argument]
    scenarios = [load_scenario(name, given) for name in _each(names)]
    if not scenarios:
        raise typer.BadParameter("name a scenario; `perception hil list` lists them")
    twice = [name for name, n in Counter(one.name for one in scenarios).items() if n > 1]
    if twice:
        raise SettingsError(f"two scenarios are named {twice[0]}: one would overwrite the other")
    if unit:
        split_address(unit)
    results = Results(scenarios, out, junit)
    with results:
        for number, scenario in enumerate(scenarios, 1):
            screen.print(f"{number} of {len(scenarios)}: {scenario.title}", highlight=False)
            begin_s = time.monotonic()
            try:
                verdict = run_scenario(scenario, out, unit)
            except KeyboardInterrupt:
                screen.print("interrupted")
                results.interrupted(scenario, time.monotonic() - begin_s)
                break
            results.add(verdict, time.monotonic() - begin_s)
    if as_json:
        print(json.dumps(results.as_json(), indent=2))
    else:
        Console().print(verdicts_table(results.verdicts))
        for line in problems(results.verdicts):
            screen.print(line, highlight=False, markup=False, soft_wrap=True)
    if not results.passed:
        raise typer.Exit(1)


@hil_app.command("unit")
def unit_command(
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME:=VALUE]...",
            help="Parameters of the graph, which go before those of the scenarios.",
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Address to take orders at. Whoever reaches it starts and kills the graph: an "
            "address of the test network alone.",
        ),
    ] = f"127.0.0.1:{PORT}",
) -> None:
    """Be the unit under test: run the vehicle's graph as a bench orders, until Ctrl-C.

    On the bench: perception hil run SCENARIO --unit HOST:PORT

    Example: perception hil unit --listen 192.168.7.2:7737
    """
    wrong = [text for text in assignments or [] if ":=" not in text]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} is not of the form NAME:=VALUE")
    values = dict(text.split(":=", 1) for text in assignments or [])
    LIVE.nodes(values)  # what is wrong with them is better known before a bench comes
    server = UnitServer(*split_address(listen), values)
    screen.print(f"unit at {server.address}", highlight=False)
    server.run()


def _each(names: list[str]) -> list[str]:
    """Names and files of scenarios, folders and `all` replaced by what is in them."""
    found: list[str] = []
    for name in names:
        if name == "all":
            found += shipped()
        elif Path(name).is_dir():
            inside = [path for path in sorted(Path(name).iterdir()) if path.suffix in SUFFIXES]
            if not inside:
                raise ScenarioError(f"folder {name} holds no scenario, no .yaml file")
            found += map(str, inside)
        else:
            found.append(name)
    return found

"""`perception hil COMMAND`: puts faults into the real graph, and judges how it copes."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.cli import options
from perception_nodes.cli.common import give, parse_assignments, say, screen
from perception_nodes.cli.described import Commands
from perception_nodes.faults.address import PORT, is_loopback, split_address
from perception_nodes.faults.loading import SUFFIXES, ScenarioError, load_scenario, shipped
from perception_nodes.faults.scenario import Scenario
from perception_nodes.faults.unit import UnitServer
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab.hil import run_scenarios
from perception_nodes.lab.results import scenarios_table, verdicts_table
from perception_nodes.system.environment import open_to_network

hil_app = Commands(
    help="Hardware in the loop: a bench plays a drive with faults to the graph, and judges whether "
    "the graph notices them, reports them, accounts for every frame, and recovers.",
    no_args_is_help=True,
)


@hil_app.command("list")
def list_command(as_json: options.Json = False) -> None:
    """List the scenarios that come with the package, and what each of them expects.

    Example: perception hil list
    """
    scenarios = [load_scenario(name) for name in shipped()]
    give([scenario.model_dump() for scenario in scenarios], scenarios_table(scenarios), as_json)


@hil_app.command("run")
def run_command(
    arguments: Annotated[list[str], typer.Argument(metavar="SCENARIO... [NAME:=VALUE]...")],
    out: options.OutFolder = Path("out/hil"),
    unit: Annotated[str, typer.Option(metavar="HOST:PORT")] = "",
    as_json: options.Json = False,
    junit: options.WrittenFile = None,
) -> None:
    """Start the graph, put faults in, observe it as a subscriber, and give a verdict.

    In every scenario each frame that the camera sent must be accounted for. The results are
    report.html, verdicts.json, and for each scenario a recording and the messages of the nodes; an
    interrupted run leaves them too.

    Exit status: 0 all passed; 1 a scenario failed or could not be run; 2 a scenario file, a
    parameter or the folder for the results cannot be used; 130 ended by Ctrl-C.

    Options:
        arguments: Names from `perception hil list`, .yaml files, folders of these, or all; and
            parameters of the graph, which take precedence over those of the scenarios.
        out: Folder for the results.
        unit: Run the graph on this vehicle computer, where `perception hil unit` serves; without
            it, on this machine.
        junit: Write JUnit XML here.

    Example: perception hil run camera_stop detector_kill deadline_ms:=50
    """
    given = parse_assignments(argument for argument in arguments if ":=" in argument)
    names = [argument for argument in arguments if ":=" not in argument]
    scenarios = [load_scenario(name, given) for name in _each(names)]
    if not scenarios:
        raise SettingsError("name a scenario; `perception hil list` lists them")
    twice = [name for name, n in Counter(one.name for one in scenarios).items() if n > 1]
    if twice:
        raise SettingsError(f"two scenarios are named {twice[0]}: one would overwrite the other")
    if unit:
        split_address(unit)

    def begin(place: int, scenario: Scenario) -> None:
        say(f"{place + 1} of {len(scenarios)}: {scenario.title}")
        running.update(f"{scenario.name} runs, as a rule for half a minute")

    with screen.status("", refresh_per_second=2) as running:
        results = run_scenarios(scenarios, out, junit, unit, begin)
    give(results.as_json(), verdicts_table(results.verdicts), as_json)
    if not as_json:
        for verdict in results.verdicts:
            for problem in verdict.problems:
                say(f"{verdict.scenario}: {problem}")
    if results.interrupted:
        raise KeyboardInterrupt  # Ctrl-C has the same exit status for all commands
    if not results.passed:
        raise typer.Exit(1)


@hil_app.command("unit")
def unit_command(
    assignments: options.Assignments = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT")] = f"127.0.0.1:{PORT}",
) -> None:
    """Serve as the unit under test: run the graph of the vehicle for a bench, until Ctrl-C.

    The graph stops when the bench does. On the bench: perception hil run SCENARIO --unit HOST:PORT

    Orders are taken from a bench with the same token in $PERCEPTION_HIL_TOKEN.

    Options:
        assignments: Parameters of the graph, which take precedence over those of the scenarios.
        listen: Address to take orders at. Who gives orders starts and kills processes: use an
            address in the test network only.

    Example: perception hil unit --listen 192.168.7.2:7737
    """
    values = parse_assignments(assignments)
    LIVE.nodes(values)  # report an unusable parameter before a bench connects
    host, port = split_address(listen)
    if not is_loopback(host):
        open_to_network()
    server = UnitServer(host, port, values)
    say(f"unit at {server.address}")
    server.run()


def _each(names: list[str]) -> list[str]:
    """Names and files of scenarios, with `all` and folders replaced by what they contain."""
    found: list[str] = []
    for name in names:
        if name == "all":
            found += shipped()
        elif Path(name).is_dir():
            inside = [path for path in sorted(Path(name).iterdir()) if path.suffix in SUFFIXES]
            if not inside:
                raise ScenarioError(f"folder {name} holds no scenario, which is a .yaml file")
            found += map(str, inside)
        else:
            found.append(name)
    return found

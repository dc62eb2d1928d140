"""`perception replay`, called in the process of the tests."""

import json

from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.core.errors import PerceptionError


def replay(*arguments, status=(0, 1)):
    """Run the command in this process; its JSON. By default it may find nothing (status 1)."""
    result = CliRunner().invoke(app, ["replay", *map(str, arguments), "--json"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (status if isinstance(status, tuple) else (status,)), result.output
    return json.loads(result.stdout) if result.stdout else None


def unusable(*arguments):
    """What a command says of input it cannot use."""
    result = CliRunner().invoke(app, ["replay", *map(str, arguments)])
    assert isinstance(result.exception, PerceptionError), result.output
    return str(result.exception)

"""Tables of figures on a narrow terminal."""

import io

from rich.console import Console

from perception_nodes.report.figures import figure_table


def test_names_are_broken_and_figures_are_not() -> None:
    figures = [f"{number}234567.89" for number in range(6)]
    table = figure_table(["drive", ""], ["p99 ms"] * 6)
    table.add_row("a_name_longer_than_what_is_left", "shared", *figures)
    printed = io.StringIO()
    Console(file=printed, width=80).print(table)
    lines = printed.getvalue().splitlines()
    assert all(figure in printed.getvalue() for figure in figures)
    assert "a_name_longer_than_what_is_left" in "".join(line.split(" ")[1] for line in lines[4:-1])
    assert max(map(len, lines)) <= 80

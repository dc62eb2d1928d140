"""Runs the graph, and says how that went: run, account, checks, page.

`run` executes a graph, and holds what was sent, heard and spent. `account` reconciles it. `checks`,
`drive_checks` and `judge` say what must hold, and `page` shows it. The presets are `latency`,
`deadline`, `cameras`, `hil` (one scenario: `scenario_run`), `acceptance` and `demo`.
"""

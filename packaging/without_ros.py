"""A plugin of pytest that skips what needs iceoryx2 or ROS, and what the time does not suffice for.

PYTHONPATH=packaging python -m pytest -p without_ros -p no:endpoint_fixtures test/core
"""

import time
from collections import defaultdict

import hypothesis
import pytest

ABSENT = ("iceoryx2", "rclpy")
WHY = "needs {}, which has no wheel for this machine"
SETTINGS = "_hypothesis_internal_use_settings"
"""Where hypothesis keeps those of a property, which a test may have set itself."""
FIXTURES_OF_CHANNELS = ("'domain'", "'ros_domain'", "'join'")


def lacking(error: BaseException | None) -> str:
    """The absent package that an error is about; empty if it is about another thing."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name in ABSENT:
            return error.name
        text = str(error) if type(error).__name__ == "FixtureLookupError" else ""
        if any(name in text for name in FIXTURES_OF_CHANNELS):
            return ABSENT[0]
        error = error.__cause__ or error.__context__
    return ""


def pytest_addoption(parser):
    """Add the options that make the tests fewer."""
    parser.addoption("--end-at", type=float, help="start no test from then on; seconds since 1970")
    parser.addoption("--cases", type=int, help="of a test's cases at most so many, evenly apart")
    parser.addoption("--examples", type=int, help="of a property at most so many")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Deselect further cases of each test, and take fewer examples."""
    cases, examples = config.getoption("--cases"), config.getoption("--examples")
    tests, kept = defaultdict(list), set()
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    for same in tests.values():
        number = min(len(same), cases or len(same))
        kept.update(same[one * len(same) // number] for one in range(number))
    if left := [item for item in items if item not in kept]:
        config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item in kept]
    for test in {getattr(item.obj, "__func__", item.obj) for item in items if examples}:
        if asked := getattr(test, SETTINGS, None):
            few = min(examples, asked.max_examples)
            setattr(test, SETTINGS, hypothesis.settings(asked, max_examples=few))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip a test for which no time is left."""
    end_s = item.config.getoption("--end-at")
    if end_s is not None and time.time() >= end_s:
        pytest.skip("cut: its time is over")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skip a file that imports one of them."""
    report = yield
    text = str(report.longrepr or "")
    for name in ABSENT:
        if report.failed and f"'{name}'" in text and "ModuleNotFoundError" in text:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {WHY.format(name)}")
            report.result = []
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Skip a test that asks for one of them."""
    report = yield
    if report.failed and (name := lacking(call.excinfo.value)):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1], f"Skipped: {WHY.format(name)}")
    return report

"""The command line as a user meets it: outputs, exit statuses, one-line errors."""

import json
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from perception_nodes import __main__
from perception_nodes.cli import app as cli_app
from perception_nodes.cli import doctor as doctor_command
from perception_nodes.cli.common import say
from perception_nodes.cli.doctor import doctor
from perception_nodes.cli.messages import messages
from perception_nodes.evaluation.measured import THOROUGH_S, Row
from perception_nodes.graph import findings
from perception_nodes.graph.ros_packages import REMEDIES
from perception_nodes.system.environment import SAFE_PATH
from perception_nodes.system.signals import STOPPING
from perception_nodes.system.threads import POLICIES


def perception(*arguments, cwd, environment=None):
    """Run the command line."""
    how = {"cwd": cwd, "env": {**os.environ, "COLUMNS": "200", **(environment or {})}}
    command = [sys.executable, "-m", "perception_nodes", *arguments]
    return subprocess.run(command, **how, capture_output=True, text=True, check=False)


def run_code(code, root, *arguments):
    """Run Python in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_help_lists_what_a_minimal_installation_can_run(tmp_path):
    code = "import sys; sys.modules['jinja2'] = None; from perception_nodes import __main__ as it; "
    code += "sys.argv[0] = 'perception'; sys.exit(it.main())"
    help = run_code(code, tmp_path, "--help")
    assert help.returncode == 0 and " run " in help.stdout and " replay " not in help.stdout
    replay = run_code(code, tmp_path, "replay", "--help")
    assert replay.returncode == 2 and "jinja2" in replay.stderr


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that ends with status 2; returns what it prints on stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["perception", *arguments])
        assert cli_app.main() == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["replay", "/nowhere"], "/nowhere does not exist"),
        (["replay", "models"], "models"),
        (["replay", "x" * 300], "File name too long"),
        (["replay", ""], "argument 2 is empty"),
        (["replay", "bags/sample_sqlite3", "--calibration", os.devnull], "is a pipe or a device"),
        (["replay", "bags/sample_sqlite3", "--topic", "/nose"], "/nose"),
        (["replay", "bags/sample_sqlite3", "--model", "road-z"], "known are open-m, open-m-float"),
        ("replay bags/sample_sqlite3 --backend abacus", "'abacus' is unknown; known are openvino"),
        (["run", "deadline_ms:=-1"], "parameter deadline_ms: '-1' is not allowed"),
        (["run", "nose:=1"], "parameter 'nose' is unknown"),
        (["run", "deadline_ms=20"], "NAME:=VALUE; did you mean deadline_ms:=20?"),
        (["run", "--deadline-ms", "20"], "NAME:=VALUE; did you mean deadline_ms:=20?"),
        (["run", "--modle", "open-n"], "NAME:=VALUE; did you mean model:=open-n?"),
        (["run", "bags"], "NAME:=VALUE; did you mean bag:=bags?"),
        (["demo", "bags"], "NAME:=VALUE; did you mean --bag bags?"),
        (["accept", "minutes:=1"], "minutes is an option; did you mean --minutes 1?"),
        (["replay", "model:=open-n"], "parameters of the graph; did you mean --model open-n?"),
        (["replay", "--bag", "/nowhere"], "/nowhere does not exist"),
        (["replay", "x", "--boxes", "csv,xml"], "--boxes 'xml' is unknown; known are jsonl"),
        (["model", "card", "--model", "road-z"], "known are open-m, open-m-float"),
        (["model", "card", "model:=open-n"], "parameters of the graph; did you mean --model"),
        (["demo", "--bag", "/nowhere"], "/nowhere does not exist"),
        (["demo", "bag:=mine"], "bag is an option; did you mean --bag mine?"),
        (["hil", "run", "deadline_ms:=20"], "name a scenario"),
        (["hil", "unit", "deadline_ms"], "not of the form NAME:=VALUE"),
        (["bench", "latency", "--size", "huge"], "--size 'huge' is not WIDTHxHEIGHT"),
        ("bench models --threads two", "--threads 'two'"),
        ("model evaluate open-n --data /nowhere", "/nowhere"),
        ("model evaluate open-n --data models", "holds no image"),
        ("model evaluate open-n --data x --teacher open-s --classes-map a=b", "is for labels"),
        ("model calibrate open-n", "--bag"),
        ("model calibrate open-n --frames-license MIT", "--frames-license is kept in the new mod"),
        ("model compile open-n --backend warp", "'warp' is unknown"),
        ("model compile road-q --backend openvino", "'road-q' is not"),
        ("model compile open-n --backend openvino --bag /nowhere", "/nowhere does not exist"),
        ("model compile open-n --backend openvino --images models", "holds no image"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(monkeypatch, refused, root, arguments, text):
    monkeypatch.chdir(root)
    error = refused(*(arguments.split() if isinstance(arguments, str) else arguments))
    assert text in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "--pid", "0"], "'--pid'"),
        (["bench", "latency", "--path", "foo"], "'foo' is not one of 'dds', 'shm'"),
        (["model", "import", "x", "--color", "HSV"], "'HSV' is not one of 'RGB', 'BGR'"),
        # No comparison with NaN is true, so that every gate would let everything pass.
        (["model", "evaluate", "open-n", "--data", "x", "--at-least", "nan"], "'--at-least'"),
        (["model", "compile", "open-n", "--min-agreement", "nan"], "'--min-agreement'"),
        (["model", "compile", "open-n", "--max-loss", "nan"], "'--max-loss'"),
        (["replay", "x", "--mode", "realtime", "--rate", "nan"], "'--rate'"),
        (["run", "deadline_ms:=nan"], "parameter deadline_ms: 'nan' is not allowed"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(refused, arguments, text):
    assert text in refused(*arguments)


def test_the_version_is_that_of_the_package(root):
    version = ElementTree.parse(root / "package.xml").findtext("version")
    assert perception("--version", cwd=root).stdout == f"perception {version}\n"


def test_tables_say_all_and_machines_get_json(root):
    table = perception("run", "--parameters", cwd=root).stdout
    assert "deadline of a frame, from its capture to the publication" in table
    assert "a text that matches ^[a-z][a-z0-9_]{0,30}$" in table
    models = json.loads(perception("model", "list", "--json", cwd=root).stdout)
    assert "open-n" in [model["name"] for model in models]
    checked = json.loads(perception("doctor", "--json", cwd=root).stdout)
    assert {"subject", "ok", "found", "remedy", "needed"} == set(checked[0])
    assert "rclpy" in [finding["subject"] for finding in checked]


def test_the_doctor_imports_what_it_says_is_there(monkeypatch, tmp_path):
    (tmp_path / "stale_msgs").mkdir()
    (tmp_path / "stale_msgs/__init__.py").write_text("")
    (tmp_path / "broken.py").write_text("raise OSError('no libbroken.so')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(REMEDIES, "stale_msgs", "build them")
    native = "No module named 'stale_msgs.stale_msgs_s__rosidl_typesupport_c'"
    absent = findings.package("it", "absent.part", "get it")
    broken = findings.package("it", "broken", "get it")
    stale = findings.messages("stale_msgs")
    assert [(one.ok, one.found, one.remedy) for one in (absent, broken, stale)] == [
        (False, "not installed", "get it"),
        (False, "cannot be imported: OSError: no libbroken.so", "get it"),
        (False, f"cannot be imported: ModuleNotFoundError: {native}", "build them"),
    ]
    assert findings.package("it", "json.decoder", "get it").ok


def test_a_shared_memory_that_cannot_be_imported_is_told_without_traceback(root, tmp_path):
    (tmp_path / "iceoryx2.py").write_text("raise ImportError('iceoryx2 is for another Python')")
    folders = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))

    def run(*arguments):
        return perception(*arguments, cwd=root, environment={"PYTHONPATH": folders})

    result = run("doctor", "--json")
    assert (result.returncode, result.stderr) == (1, "")
    (finding,) = [one for one in json.loads(result.stdout) if one["subject"] == "iceoryx2"]
    assert not finding["ok"] and finding["needed"]
    assert finding["found"] == "cannot be imported: ImportError: iceoryx2 is for another Python"
    result = run("run")
    told = "error: iceoryx2 is for another Python; perception doctor says what is missing\n"
    assert (result.returncode, result.stderr) == (2, told)


def test_the_doctor_lists_what_networks_take_here_and_measures_anew_when_asked(
    monkeypatch, capsys, tmp_path
):
    taken = Row("open-n", "litert", 2, "", 2.8, 4.3, 6.0, 99, "")
    refused = Row("open-n", "openvino", 2, "1", 0.0, 0.0, 0.0, 0, "there was no time for it")
    asked: list[float] = []

    def measure(given, say, progress, limit_s, anew):
        asked.append(limit_s)
        return [taken, refused] if anew else []

    monkeypatch.setattr(doctor_command, "measured_rows", measure)
    monkeypatch.setattr(doctor_command, "examine", list)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    doctor(as_json=True)
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["ok"], finding["needed"], asked) == (False, False, [])
    assert finding["remedy"] == "perception doctor --measure, when nothing else runs"
    doctor(measure=True)
    told = capsys.readouterr().out
    assert asked == [THOROUGH_S]
    assert "model:=open-n backend:=litert threads:=2" in " ".join(told.split())
    for text in ("2.8", "4.3", "6.0", "there was no time for it"):
        assert text in told


def test_threads_of_running_nodes_are_listed(capsys):
    code = "print(flush=True); input()"
    command = [sys.executable, "-c", code, "perception_nodes.nodes.detector_node"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        node.stdout.readline()  # before, the kernel may not know its arguments yet
        doctor(as_json=True, show_threads=True)
        found = json.loads(capsys.readouterr().out)
        doctor(show_threads=True)
        table = capsys.readouterr().out
        node.communicate(b"\n")
    (thread,) = [one for one in found if one["thread"] == node.pid]
    # The node has inherited them from us.
    ours = POLICIES[os.sched_getscheduler(0)], os.sched_getparam(0).sched_priority
    assert (thread["node"], thread["policy"], thread["priority"]) == ("detector_node", *ours)
    assert str(node.pid) in table and "Threads of running nodes" in table


@pytest.mark.parametrize("number", STOPPING)
def test_an_end_while_it_loads_leaves_no_traceback(root, number):
    code = (
        "import signal, sys\n"
        "from perception_nodes import __main__\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'perception_nodes.cli.app':\n"
        f"            signal.raise_signal({int(number)})\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "__main__.main()\n"
    )
    result = run_code(code, root)
    assert (result.returncode, result.stderr) == (128 + number, "")


@pytest.mark.parametrize("number", STOPPING)
def test_an_end_while_native_code_is_loaded_aborts_nothing(root, number):
    # As onnx is loaded its native code makes enumerations, and aborts at an exception from them.
    code = (
        "import enum, signal, sys, traceback\n"
        "from perception_nodes import __main__\n"
        "def interrupt(self, *_, **__):\n"
        "    if any('site-packages/onnx/' in f.filename for f in traceback.extract_stack()):\n"
        "        enum.Enum.__init__ = lambda *_, **__: None\n"
        f"        signal.raise_signal({int(number)})\n"
        "enum.Enum.__init__ = interrupt\n"
        "sys.argv = ['perception', 'bench', 'models', 'open-n', '--frames', '100000']\n"
        "sys.exit(__main__.main())\n"
    )
    result = run_code(code, root)
    assert result.returncode == 128 + number
    # Its cache decides whether onnx is loaded before or after this line.
    assert {*result.stderr.splitlines()} <= {"open-n: the same outputs from all runtimes?"}


@pytest.mark.parametrize("number", STOPPING)
def test_an_end_outside_of_the_command_itself_is_one_too(monkeypatch, number):
    monkeypatch.setattr(cli_app, "app", lambda: signal.raise_signal(number))
    monkeypatch.setattr(sys, "argv", ["perception", "doctor"])
    assert cli_app.main() == 128 + number


def test_a_second_signal_does_not_cut_the_cleaning_short(monkeypatch):
    """As systemd ends a session: SIGTERM, and SIGHUP behind it."""
    cleaned = []

    def command():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGHUP)
            cleaned.append(True)

    monkeypatch.setattr(cli_app, "app", command)
    monkeypatch.setattr(sys, "argv", ["perception", "doctor"])
    assert cli_app.main() == 128 + signal.SIGTERM
    assert cleaned


def test_a_disk_that_fills_up_is_one_line(root, tmp_path):
    """No file may grow here, as on a full disk; the check before the work is not what tells."""
    code = (
        "import resource, signal, sys\n"
        "from perception_nodes.cli import app, model, options\n"
        "model.check_writable = options.check_writable = lambda path, option: None\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "sys.exit(app.main())\n"
    )
    bag = str(root / "bags/sample_sqlite3")
    arguments = ["model", "calibrate", "open-n", "--bag", bag, "--frames", "8"]
    result = run_code(code, root, *arguments, "--sheet", str(tmp_path / "sheet.jpg"))
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "error: File too large"
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot leave it out")
def test_what_a_command_starts_takes_no_modules_from_the_folder_it_is_in(tmp_path, monkeypatch):
    monkeypatch.setenv(SAFE_PATH, "1")  # so that it is put back, too
    monkeypatch.delenv(SAFE_PATH)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text("")

    def start():
        command = [sys.executable, "-m", "stranger"]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert start() == 0
    monkeypatch.setattr(cli_app, "main", start)
    assert __main__.main() == 1


def test_the_build_of_the_messages_takes_those_beside_it(monkeypatch):
    monkeypatch.setenv(SAFE_PATH, "1")
    given: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: given.append(arguments[2]))
    messages()
    assert [SAFE_PATH in environment for environment in given] == [False]


def test_texts_of_foreign_files_only_show_something(capsys):
    say("  licence: \x1b[2JGPL\nWritten to\tmodels\x07")
    assert capsys.readouterr().err == "  licence: ?[2JGPL Written to models?\n"

"""`perception doctor`: what this machine has, what it lacks, and the remedy."""

import glob
import importlib
import importlib.metadata
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perception_nodes.backends.instructions import has_tiles
from perception_nodes.cameras.v4l2_devices import list_devices
from perception_nodes.cli.common import JsonFlag, say
from perception_nodes.gpu.cuda import CudaError, open_device
from perception_nodes.gpu.cuda.errors import version_text
from perception_nodes.gpu.nvrtc import nvrtc
from perception_nodes.gpu.tensorrt.library import load_library
from perception_nodes.graph.ros_packages import REMEDIES
from perception_nodes.graph.settings import check
from perception_nodes.networks.model import ModelError, available_models, load_model
from perception_nodes.report.figures import figure_table
from perception_nodes.system.preemption import AT_ONCE, kernel_preemption
from perception_nodes.system.processes import cpu_flags
from perception_nodes.system.realtime import allowed_priority
from perception_nodes.system.threads import Thread, nodes, threads
from perception_nodes.transport.memory import SHM_FOLDER

NEEDED_SHM_BYTES = 512_000_000


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: what was checked.
        ok: whether it is as it should be.
        found: what was found.
        remedy: what to do if it is not.
        needed: whether the default pipeline needs it.
    """

    subject: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Make every check; none of them changes anything on the machine."""
    checks: list[Callable[[], Finding]] = [
        _python,
        lambda: _package("rclpy", "rclpy", REMEDIES["rclpy"]),
        _rmw,
        lambda: _messages("vision_msgs"),
        lambda: _messages("perception_interfaces"),
        lambda: _package("iceoryx2", "iceoryx2", "pip install iceoryx2"),
        lambda: _package("rosbags", "rosbags.typesys", "pip install rosbags"),
        _openvino,
        lambda: _package("ONNX Runtime", "onnxruntime", "pip install onnxruntime", needed=False),
        lambda: _package("LiteRT", "ai_edge_litert.interpreter", "pip install ai-edge-litert"),
        _tensorrt,
        _gpu,
        _fpga,
        _models,
        lambda: _package("PyAV, for streams and video files", "av", "pip install av", needed=False),
        _cameras,
        _shared_memory,
        _cpu,
        _realtime,
        _preemption,
        _memory_lock,
    ]
    return [check() for check in checks]


def report_table(findings: list[Finding]) -> Table:
    """The findings as a table."""
    table = Table("", "what", "found", "remedy", title="This machine")
    for finding in findings:
        mark = "[green]ok" if finding.ok else "[red]missing" if finding.needed else "[yellow]no"
        remedy = "" if finding.ok else finding.remedy
        table.add_row(mark, *map(escape, (finding.subject, finding.found, remedy)))
    return table


def _package(subject: str, module: str, remedy: str, needed: bool = True) -> Finding:
    if problem := _import_problem(module):
        return Finding(subject, False, problem, remedy, needed)
    return Finding(subject, True, _version(_package_of(module)), needed=needed)


def _messages(package: str) -> Finding:
    # Its native part is for one Python only, and is loaded when the first message is sent.
    return _package(package, f"{package}.{package}_s__rosidl_typesupport_c", REMEDIES[package])


def _import_problem(module: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    if importlib.util.find_spec(_package_of(module)) is None:
        return "not installed"
    try:
        importlib.import_module(module)
    except Exception as error:  # native code raises any
        return f"cannot be imported: {type(error).__name__}: {error}"
    return ""


def _package_of(module: str) -> str:
    return module.partition(".")[0]


def _version(package: str) -> str:
    for name in (package, f"ros-{package.replace('_', '-')}"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "installed"


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    known = (3, 10) <= sys.version_info[:2] <= (3, 14)
    return Finding("Python", known, version, "install Python 3.10 to 3.14")


def _rmw() -> Finding:
    wanted = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    folders = [Path(sys.prefix) / "lib"]
    folders += [Path(p) / "lib" for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    folders += [Path(p) for p in sys.path if p.endswith("site-packages")]
    there = any(
        next(folder.glob(pattern), None)
        for folder in folders
        for pattern in (f"lib{wanted}.so", f"{wanted}*", f"ros_{wanted}*")
    )
    return Finding("ROS middleware", there, wanted, f"install ros-{wanted.replace('_', '-')}")


def _openvino() -> Finding:
    if problem := _import_problem("openvino"):
        return Finding("OpenVINO", False, problem, "pip install openvino")
    import openvino

    devices = ", ".join(openvino.Core().available_devices)
    return Finding("OpenVINO", "CPU" in devices, f"{openvino.__version__}: {devices}")


def _tensorrt() -> Finding:
    try:
        library = load_library()
    except ImportError as error:
        remedy = "pip install tensorrt or tensorrt-rtx; on a Jetson apt install python3-libnvinfer"
        return Finding("TensorRT", False, str(error), remedy, needed=False)
    return Finding("TensorRT", True, library.name, needed=False)


def _gpu() -> Finding:
    try:
        device = open_device()
    except CudaError as error:
        found, _, remedy = str(error).partition("; ")
        return Finding("GPU", False, found, remedy, needed=False)
    facts = device.facts
    device.close()
    found = f"{facts.name}, SM{facts.sm}, driver for CUDA {version_text(facts.driver_cuda)}"
    found += f", through {facts.through}"
    try:
        compiler = nvrtc(facts.driver_cuda)
    except CudaError as error:
        reason, _, remedy = str(error).partition("; ")
        return Finding("GPU", False, f"{found}; {reason}", remedy, needed=False)
    return Finding("GPU", True, f"{found}, NVRTC {version_text(compiler.version)}", needed=False)


def _fpga() -> Finding:
    there = importlib.util.find_spec("pynq") is not None
    found = "pynq installed" if there else "no pynq"
    remedy = "only on a board such as KV260: install pynq; elsewhere backend:=fpga is simulated"
    return Finding("FPGA", there, found, remedy, needed=False)


def _models() -> Finding:
    names = available_models()
    for name in names:
        try:
            load_model(name)
        except ModelError as error:
            return Finding("models", False, str(error), "restore the model's folder")
    remedy = "set PERCEPTION_MODELS to a folder of models"
    return Finding("models", bool(names), ", ".join(names) or "none", remedy)


def _cameras() -> Finding:
    there, found = glob.glob("/dev/video*"), list_devices()
    names = ", ".join(f"{device.path} ({device.name})" for device in found)
    remedy = (
        "allow this user to open /dev/video*: usermod -aG video USER"
        if there
        else "plug one in; or take a stream or file: perception run source:=drive.mp4"
    )
    return Finding("cameras", bool(found), names or "no capture device", remedy, needed=False)


def _shared_memory() -> Finding:
    usage = shutil.disk_usage(SHM_FOLDER)
    found = f"{usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB free"
    remedy = f"mount -o remount,size=2G {SHM_FOLDER} (in a container: --shm-size=2g)"
    return Finding(f"{SHM_FOLDER}", usage.free >= NEEDED_SHM_BYTES, found, remedy)


def _cpu() -> Finding:
    int8 = not cpu_flags().isdisjoint(("avx512_vnni", "avx_vnni", "asimddp"))
    found = f"{os.cpu_count()} cores, " + ("INT8 dot product" if int8 else "no INT8 dot product")
    if has_tiles():
        found += ", matrix tiles (AMX): plain-s with backend:=openvino uses them"
    remedy = (
        "INT8 gains little here; a CPU with AVX-VNNI or AVX512-VNNI runs it 2 to 3 times faster"
    )
    return Finding("CPU", int8, found, remedy, needed=False)


def _realtime() -> Finding:
    priority = allowed_priority()
    found = f"SCHED_FIFO {priority} for the detector" if priority else "SCHED_FIFO is not allowed"
    throttle = Path("/proc/sys/kernel/sched_rt_runtime_us")
    if throttle.is_file() and throttle.read_text(encoding="ascii").strip() == "-1":
        found += ", without the kernel's limit of 95 % (kernel.sched_rt_runtime_us=-1)"
    remedy = "add '@realtime - rtprio 98' to /etc/security/limits.conf"
    return Finding("real-time priority", priority > 0, found, remedy, needed=False)


def _preemption() -> Finding:
    model = kernel_preemption()
    remedy = "boot with preempt=full; until then real-time threads wait for others' system calls"
    return Finding(
        "kernel preemption", model in (*AT_ONCE, ""), model or "unknown", remedy, needed=False
    )


def _memory_lock() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    allowed = os.geteuid() == 0 or limit < 0 or limit >= 1 << 30
    found = "unlimited" if limit < 0 else f"{limit / 1e6:.0f} MB"
    remedy = "add '@realtime - memlock unlimited' to /etc/security/limits.conf"
    return Finding("memory locking", allowed, found, remedy, needed=False)


def _camera(topic: str, transport: str) -> Finding:
    """Whether images come on a topic; only a node can tell."""
    from perception_nodes.graph.config import PreprocessSettings

    values = {"image_topic": topic, "image_transport": transport}
    check(PreprocessSettings, values)
    say(f"listening to {topic} for some seconds")
    given = [text for name, value in values.items() for text in ("-p", f"{name}:={value}")]
    module = "perception_nodes.nodes.image_probe_node"
    probe = subprocess.run(
        [sys.executable, "-m", module, "--ros-args", *given],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if not probe.stdout:
        return Finding(topic, False, "no node can be started", "see the message above")
    told = json.loads(probe.stdout.splitlines()[-1])
    return Finding(topic, told["ok"], told["found"], told["remedy"])


def thread_table(found: list[Thread]) -> Table:
    """The threads as a table, one row each."""
    figures = ("thread", "policy", "on", "faults", "switches", "computed", "waited")
    table = figure_table(["node", "name"], figures, "Threads of running nodes")
    for one in found:
        policy = f"{one.policy} {one.priority}" if one.priority else one.policy
        table.add_row(
            escape(one.node),
            escape(one.name),
            str(one.thread),
            f"[bold]{policy}" if one.priority else policy,
            str(one.processor),
            f"{one.minor_faults} + {one.major_faults}",
            f"{one.voluntary} + {one.involuntary}",
            f"{one.computed_ms / 1e3:.2f} s",
            f"{one.waited_ms / 1e3:.2f} s",
        )
    table.caption = (
        "on: the processor; faults: minor + major; switches: voluntary + involuntary; "
        "waited: ready to run, without a processor"
    )
    return table


def _show_threads(as_json: bool) -> None:
    found = [one for process, node in nodes().items() for one in threads(process, node)]
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    elif found:
        Console().print(thread_table(found))
    else:
        Console().print("no node is running on this machine")


def doctor(
    as_json: JsonFlag = False,
    show_threads: Annotated[
        bool,
        typer.Option("--threads", help="List the threads of running nodes instead."),
    ] = False,
    image_topic: Annotated[
        str, typer.Option(help="Listen to this topic too, and tell whether a camera's images come.")
    ] = "",
    image_transport: Annotated[
        str, typer.Option(help="Type of its images, as for `perception run`.")
    ] = "raw",
) -> None:
    """Check what this machine has, and say how to get what it lacks.

    Exit status 1 if something that the pipeline needs is missing, or the images do not come.

    Example: perception doctor --json

    Example: perception doctor --threads

    Example: perception doctor --image-topic /cam/image_raw
    """
    if show_threads:
        return _show_threads(as_json)
    findings = examine()
    if image_topic:
        findings.append(_camera(image_topic, image_transport))
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        Console().print(report_table(findings))
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)

"""What this machine has, what it lacks, and the remedy: all that a graph may need."""

import glob
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from contextlib import closing

from perception_nodes.backends.instructions import has_tiles
from perception_nodes.cameras.v4l2_devices import list_devices
from perception_nodes.gpu.cuda import CudaError, open_device
from perception_nodes.gpu.cuda.errors import version_text
from perception_nodes.gpu.nvrtc import nvrtc
from perception_nodes.gpu.tensorrt.library import load_library
from perception_nodes.graph import ros_packages
from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.graph.node_spec import parameter_arguments
from perception_nodes.graph.settings import check
from perception_nodes.networks.model import ModelError, available_models, load_model
from perception_nodes.system import findings
from perception_nodes.system.findings import Finding
from perception_nodes.system.processes import cpu_flags
from perception_nodes.transport.memory import SHM_FOLDER


def examine() -> list[Finding]:
    """Make every check; none of them changes anything on the machine."""
    return [
        findings.python_version(),
        _middleware(),
        _domain(),
        package("rclpy", "rclpy", ros_packages.REMEDIES["rclpy"]),
        messages("vision_msgs"),
        messages("perception_interfaces"),
        package("iceoryx2", "iceoryx2", "pip install iceoryx2"),
        package("rosbags", "rosbags.typesys", "pip install rosbags"),
        _openvino(),
        package("ONNX Runtime", "onnxruntime", "pip install onnxruntime", needed=False),
        package("LiteRT", "ai_edge_litert.interpreter", "pip install ai-edge-litert"),
        _tensorrt(),
        _gpu(),
        _fpga(),
        _models(),
        package("PyAV, for streams and video files", "av", "pip install av", needed=False),
        _cameras(),
        findings.shared_memory(SHM_FOLDER),
        _cpu(),
        findings.real_time(),
        findings.preemption(),
        findings.memory_lock(),
    ]


def package(subject: str, module: str, remedy: str, needed: bool = True) -> Finding:
    """Whether a module can be imported."""
    if problem := _import_problem(module):
        return Finding(subject, False, problem, remedy, needed)
    return Finding(subject, True, _version(_package_of(module)), needed=needed)


def messages(name: str) -> Finding:
    """Whether a package of ROS messages can be imported and sent."""
    # Its native part is for one Python only, and is loaded when the first message is sent.
    return package(name, f"{name}.{name}_s__rosidl_typesupport_c", ros_packages.REMEDIES[name])


def _import_problem(module: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    if importlib.util.find_spec(_package_of(module)) is None:
        return "not installed"
    try:
        importlib.import_module(module)
    except Exception as error:  # native code may raise any error
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


def _middleware() -> Finding:
    name, there = ros_packages.middleware()
    if not there:
        # rclpy would end this process.
        os.environ.pop(ros_packages.MIDDLEWARE, None)
    return Finding("ROS middleware", there, name, ros_packages.middleware_remedy(name))


def _domain() -> Finding:
    domain, is_one = ros_packages.ros_domain()
    return Finding("ROS domain", is_one, domain, ros_packages.DOMAIN_REMEDY)


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
    found = ""
    try:
        with closing(open_device()) as device:
            facts = device.facts
        found = f"{facts.name}, SM{facts.sm}, driver for CUDA {version_text(facts.driver_cuda)}"
        found += f", through {facts.through}, "
        compiler = nvrtc(facts.driver_cuda)
    except CudaError as error:
        reason, _, remedy = str(error).partition("; ")
        return Finding("GPU", False, found + reason, remedy, needed=False)
    return Finding("GPU", True, f"{found}NVRTC {version_text(compiler.version)}", needed=False)


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
    allow = "allow this user to open /dev/video*: usermod -aG video USER"
    plug = "plug one in; or take a stream or file: perception run source:=drive.mp4"
    remedy = allow if there else plug
    return Finding("cameras", bool(found), names or "no capture device", remedy, needed=False)


def _cpu() -> Finding:
    int8 = not cpu_flags().isdisjoint(("avx512_vnni", "avx_vnni", "asimddp"))
    found = f"{os.cpu_count()} cores, " + ("INT8 dot product" if int8 else "no INT8 dot product")
    if has_tiles():
        found += ", matrix tiles (AMX): open-m with backend:=openvino uses them"
    faster = "a CPU with AVX-VNNI or AVX512-VNNI runs it 2 to 3 times faster"
    remedy = f"INT8 gains little here; {faster}"
    return Finding("CPU", int8, found, remedy, needed=False)


def images(topic: str, transport: str) -> Finding:
    """Whether images come on a topic; a node listens for some seconds.

    Raises:
        SettingsError: there can be no such topic or transport.
    """
    values = {"image_topic": topic, "image_transport": transport}
    check(PreprocessSettings, values)
    module = "perception_nodes.nodes.image_probe_node"
    command = [sys.executable, "-m", module, "--ros-args", *parameter_arguments(values)]
    probe = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not probe.stdout:
        return Finding(topic, False, "no node can be started", "see the message above")
    return Finding(topic, **json.loads(probe.stdout.splitlines()[-1]))

"""Check the bits of the GPU path on this machine, and measure how long it takes.

It needs a checkout of the repository, but neither ROS nor the CUDA toolkit, only these packages:

  pip install numpy jinja2 cuda-bindings nvidia-cuda-nvrtc
  pip install pydantic pyyaml opencv-python-headless simplejpeg       for the network, and
  pip install onnx                for --backends cuda
  pip install tensorrt-cu13       for --backends tensorrt; or tensorrt-rtx-cu13; or JetPack's

With a driver for CUDA 12: "cuda-bindings<13", nvidia-cuda-nvrtc-cu12, tensorrt-cu12. The first GPU
is measured; CUDA_VISIBLE_DEVICES chooses another one.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The NumPy specifications of the kernels are test oracles.
sys.path[:0] = [str(ROOT), str(ROOT / "test/gpu")]

import gpu_checks
import numpy as np

EPILOG = """
examples:
  python benchmarks/gpu.py                        check, measure, write out/gpu/gpu.json and .html
  python benchmarks/gpu.py --all                  the same, and compute-sanitizer; the layers of all
                                                  networks must be checked
  python benchmarks/gpu.py --check                only check the bits, one minute
  python benchmarks/gpu.py --host                 the same checks with the kernels compiled for the
                                                  host by g++; needs no GPU
  python benchmarks/gpu.py --frames 500 --conditions quiet      a first impression

Every condition is measured twice: with frames at --hz, as a vehicle has them, and one after the
other. At 30 Hz 6636 frames take four minutes, for each condition and backend.

exit status: 0 done, 1 the kernels' bits are wrong, 2 there is no GPU, something is missing, or no
network could be measured.
"""
BACKENDS = ("cuda", "tensorrt")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="gpu.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--check", action="store_true", help="only check the kernels' bits, measure nothing"
    )
    parser.add_argument(
        "--host", action="store_true", help="check the kernels compiled for the host; needs no GPU"
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=6636,
        help="frames per condition and pace (6636 as in MLPerf's automotive benchmark)",
    )
    parser.add_argument("--hz", type=float, default=30, help="frames a second, when they are paced")
    parser.add_argument(
        "--conditions",
        nargs="+",
        default=["quiet", "process"],
        choices=["quiet", "stream", "process"],
        help="other load on the GPU: none, work on another stream, work of another process",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        default=BACKENDS,
        choices=BACKENDS,
        help="what runs the network; one that is not installed is left out, unless all are",
    )
    parser.add_argument("--model", default="open-s", help="model for the whole graph")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of the report")
    parser.add_argument(
        "--all",
        action="store_true",
        help="leave no check out: refuse without onnx, and run compute-sanitizer where it is",
    )
    parser.add_argument("--few", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error(f"--frames {options.frames}: it must be at least 1")
    if not 0 < options.hz <= 1000:
        parser.error(f"--hz {options.hz:g}: it must be above 0, and at most 1000")
    return options


def progress(what: str):
    """A progress line that counts up on a terminal; elsewhere it is written once, at the end."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty() or done == total:
            end = "\n" if done == total else ""
            print(f"\r{what} {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show


def check_host(options: argparse.Namespace) -> int:
    """Compare the kernels compiled for the host with the specifications."""
    import kernels_on_host

    def run_network(plan, image):
        buffers = [np.zeros(size, np.uint8) for size in plan.buffers]
        buffers[0][:] = image.reshape(-1)
        return buffers, kernels_on_host.run_network(plan, buffers)

    try:
        cases = gpu_checks.compare(
            lambda case: [
                kernels_on_host.preprocess(
                    np.frombuffer(case.image.data, np.uint8), case.plan, fetched=fetched
                )
                for fetched in (False, True)
            ],
            lambda case: kernels_on_host.decode(
                case.boxes, case.classes, gpu_checks.HEAD, gpu_checks.SETTINGS, case.placement
            ),
            progress("checking the host's build"),
        )
        layers = compare_layers(run_network, options)
    except kernels_on_host.CompilerMissing as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    return report(cases, layers, "compiled for the host")


def compare_layers(run, options: argparse.Namespace) -> tuple[int, list[str]]:
    """Compare the network's layers with the golden model's; see `gpu_network.compare`."""
    import gpu_network

    models = gpu_network.MODELS[-1:] if options.few else gpu_network.MODELS
    try:
        return gpu_network.compare(run, models, progress("checking the network's layers: frame"))
    except ImportError as error:
        if options.all:
            raise
        print(f"gpu.py: the network's layers are not checked: {error}", file=sys.stderr)
        return 0, []


def report(cases: tuple[int, list[str]], layers: tuple[int, list[str]], where: str) -> int:
    """Print the results of both comparisons; returns the exit status."""
    for (count, differences), of in ((cases, "cases"), (layers, "layers of networks")):
        for difference in differences:
            print(difference)
        if count:
            equal = count - len(differences)
            print(f"{equal} of {count} {of} {where} equal their specification to the bit")
    return 1 if cases[1] or layers[1] else 0


def main(arguments: list[str] | None = None) -> int:
    """Check, and measure."""
    options = parse(arguments)
    from perception_nodes.core.errors import PerceptionError

    try:
        return check_host(options) if options.host else on_gpu(options)
    except KeyboardInterrupt:
        return 130
    except (PerceptionError, ImportError) as error:
        print(f"gpu.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def on_gpu(options: argparse.Namespace) -> int:
    """Check the device's results, and measure it."""
    from perception_nodes.gpu.cuda import CudaError, open_device

    try:
        device = open_device()
    except CudaError:
        print("gpu.py: without a GPU, --host checks the kernels built for it", file=sys.stderr)
        raise
    import gpu_network
    import gpu_page
    import gpu_sanitizer
    import gpu_stages
    import gpu_whole

    from perception_nodes.system.files import write_whole

    try:
        if options.load:
            gpu_whole.load(device)
            return 0
        facts = device.facts
        print(f"{facts.name}, SM {facts.sm}, CUDA {facts.driver_cuda}, through {facts.through}")
        cases = gpu_checks.compare(
            *gpu_stages.on_device(device), progress("checking the kernels"), few=options.few
        )
        layers = compare_layers(gpu_network.on_device(device), options)
        status = report(cases, layers, f"on the {facts.name}")
        found: dict[str, str] = {}
        if options.all and not status:
            found = gpu_sanitizer.sanitize(progress("compute-sanitizer: tool"))
            for tool, said in found.items():
                print(f"compute-sanitizer {tool}: {said}")
            status = int(any(said != gpu_sanitizer.CLEAN for said in found.values()))
        if status or options.check:
            return status
        try:
            options.out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=options.out).close()
        except OSError as error:
            reason = f"{error.strerror or error}; name another folder"
            print(f"gpu.py: --out {options.out} cannot be written: {reason}", file=sys.stderr)
            return 2
        result = {
            "machine": f"{platform.node()}, {platform.machine()}, {os.cpu_count()} processors",
            "gpu": vars(facts),
            "checks": {"cases": cases[0], "layers": layers[0], "sanitizer": [*found]},
            **gpu_stages.measure(device, progress),
            **gpu_whole.measure(options, progress),
        }
    finally:
        device.close()
    write_whole(options.out / "gpu.json", json.dumps(result, indent=1))
    write_whole(options.out / "gpu.html", gpu_page.render(result))
    print(gpu_page.text(result))
    print(f"written: {options.out / 'gpu.json'}, {options.out / 'gpu.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

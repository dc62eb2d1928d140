"""Check the bits of the GPU path on this machine, and measure how long it takes.

It needs a checkout of the repository, Python, NumPy, Jinja2, cuda-bindings or PyCUDA, and NVRTC,
which is part of the CUDA toolkit, of PyTorch and of `pip install nvidia-cuda-nvrtc`; it needs no
ROS, OpenCV or iceoryx2. If TensorRT and a model are available, the whole graph is measured with the
network, otherwise without it.
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
  python benchmarks/gpu.py --check                only check the bits, one minute
  python benchmarks/gpu.py --host                 the same checks with the kernels compiled for the
                                                  host by g++; needs no GPU
  python benchmarks/gpu.py --frames 500 --conditions quiet      a first impression

exit status: 0 done, 1 the kernels' bits are wrong, 2 there is no GPU or something is missing.
"""


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
        help="frames per condition (6636 as in MLPerf's automotive benchmark)",
    )
    parser.add_argument(
        "--conditions",
        nargs="+",
        default=["quiet", "stream", "process"],
        choices=["quiet", "stream", "process"],
        help="other load on the GPU: none, work on another stream, work of another process",
    )
    parser.add_argument("--model", default="road-s", help="model for the whole graph")
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of the report")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error(f"--frames {options.frames}: it must be at least 1")
    return options


def progress(what: str):
    """A progress line that counts up on a terminal; elsewhere it is written once, at the end."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty() or done == total:
            end = "\n" if done == total else ""
            print(f"\r{what} {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show


def check_host() -> int:
    """Compare the kernels compiled for the host with the specifications."""
    import kernels_on_host

    try:
        count, differences = gpu_checks.compare(
            lambda case: kernels_on_host.preprocess(
                np.frombuffer(case.image.data, np.uint8), case.plan, case.input_format
            ),
            lambda case: kernels_on_host.decode(
                case.boxes, case.classes, gpu_checks.HEAD, gpu_checks.SETTINGS, case.placement
            ),
            progress("checking the host's build"),
        )
    except kernels_on_host.CompilerMissing as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    return report(count, differences, "compiled for the host")


def report(count: int, differences: list[str], what: str) -> int:
    """Print the result of a comparison; returns the exit status."""
    for difference in differences:
        print(difference)
    print(
        f"{count - len(differences)} of {count} cases {what} equal their specification to the bit"
    )
    return 1 if differences else 0


def main(arguments: list[str] | None = None) -> int:
    """Check, and measure."""
    options = parse(arguments)
    if options.host:
        return check_host()
    from perception_nodes.gpu.cuda import CudaError, open_device

    try:
        device = open_device(options.device)
    except CudaError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        print(
            "gpu.py: without a GPU, --host checks the kernels compiled for the host",
            file=sys.stderr,
        )
        return 2
    import gpu_page
    import gpu_stages
    import gpu_whole

    from perception_nodes.system.files import write_whole

    try:
        if options.load:
            gpu_whole.load(device, options.device)
            return 0
        facts = device.facts
        print(f"{facts.name}, SM {facts.sm}, CUDA {facts.driver_cuda}, through {facts.through}")
        count, differences = gpu_checks.compare(
            *gpu_stages.on_device(device), progress("checking the kernels")
        )
        status = report(count, differences, f"on the {facts.name}")
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
            "checks": {"cases": count, "differences": differences},
            **gpu_whole.measure(device, options, progress),
        }
    except CudaError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    finally:
        device.close()
    write_whole(options.out / "gpu.json", json.dumps(result, indent=1))
    write_whole(options.out / "gpu.html", gpu_page.render(result))
    print(gpu_page.text(result))
    print(f"written: {options.out / 'gpu.json'}, {options.out / 'gpu.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

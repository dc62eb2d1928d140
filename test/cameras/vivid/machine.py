"""Runs the tests of this folder in an emulated machine that has cameras.

Boots Debian's kernel with its virtual camera driver, vivid, under QEMU without KVM. This machine's
files are there read-only over 9p, so its Python and this checkout are what runs. Needs from
Debian: qemu-system-x86 busybox-static cpio xz-utils kmod, and `apt-get download` for the kernel.

    python test/cameras/vivid/machine.py [PYTEST ARGUMENT]...
"""

import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CACHE = ROOT / "build/camera-vm"
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "vivid")
PROGRAMS = ("qemu-system-x86_64", "busybox", "cpio", "xz", "modprobe")
LIMIT_S = int(os.environ.get("LIMIT_S", "900"))
INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mkdir -p /proc /sys /dev
$B mount -t proc p /proc
$B mount -t sysfs s /sys
$B mount -t devtmpfs d /dev
for module in /modules/*.ko; do
    case $module in
        # Two cameras, the second with planes; error injection is a control of theirs. Inputs: a
        # webcam, TV, S-Video, HDMI.
        *vivid.ko) $B insmod $module n_devs=2 node_types=0x1,0x1 vid_cap_nr=0,1 multiplanar=1,2 ;;
        *) $B insmod $module ;;
    esac
done
# Nobody changes the files meanwhile: what was read once stays in memory.
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose host /host
$B mount -t proc p /host/proc
$B mount -t sysfs s /host/sys
$B mount -t devtmpfs d /host/dev
$B mkdir -p /host/dev/shm
$B mount -t tmpfs t /host/dev/shm
# The checkout may lie in the host's /tmp, which the machine's own would cover.
$B mkdir -p /checkout
$B mount -o bind /host{root} /checkout
$B mount -t tmpfs t /host/tmp
$B mkdir -p /host{root}
$B mount -o bind /checkout /host{root}
$B ip link set lo up
$B cp -r /modules /host/tmp/modules
$B chroot /host /bin/sh -c {command}
echo "exit status $?"
$B poweroff -f
"""


def kernel() -> Path:
    """Debian's kernel package, unpacked once; its `boot` and `usr/lib/modules` are in there."""
    unpacked = CACHE / "kernel"
    if not unpacked.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = ["apt-cache", "depends", "linux-image-amd64"]
        listed = subprocess.run(command, capture_output=True, text=True)
        if (named := re.search(r"linux-image-\d\S*", listed.stdout)) is None:
            sys.exit("no kernel package linux-image-amd64 is known; run apt-get update")
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            subprocess.run(["apt-get", "download", "-qq", named[0]], cwd=folder, check=True)
            (package,) = Path(folder).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, f"{folder}/kernel"], check=True)
            version = next(Path(folder, "kernel/usr/lib/modules").iterdir()).name
            subprocess.run(["depmod", "-b", f"{folder}/kernel/usr", version], check=True)
            Path(folder, "kernel").rename(unpacked)
    return unpacked


def needed_modules() -> list[Path]:
    """The modules, each behind those that it needs."""
    (modules,) = (kernel() / "usr/lib/modules").iterdir()
    command = ["modprobe", "-aD", "-d", kernel() / "usr", "-S", modules.name, *MODULES]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [*map(Path, dict.fromkeys(re.findall(r"^insmod (\S+)", shown, re.MULTILINE)))]


def initial_files(folder: Path, command: str) -> Path:
    """The archive that the kernel starts from: busybox, the modules, and `INIT`."""
    root = folder / "root"
    for name in ("bin", "modules", "host"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    for number, path in enumerate(needed_modules()):
        target = root / "modules" / f"{number:02}-{path.name.removesuffix('.xz')}"
        target.write_bytes(subprocess.run(["xz", "-dc", path], capture_output=True).stdout)
    init = root / "init"
    init.write_text(INIT.replace("{command}", shlex.quote(command)).replace("{root}", str(ROOT)))
    init.chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=root, input=names.encode(), capture_output=True, check=True,
    ).stdout  # fmt: skip
    packed = folder / "initrd.gz"
    packed.write_bytes(gzip.compress(archive, 1))
    return packed


def main(arguments: list[str]) -> int:
    """Exit status of pytest in there; 3 where the machine did not come so far."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        print(f"{', '.join(missing)} missing: apt-get install qemu-system-x86 busybox-static cpio "
              "xz-utils kmod", file=sys.stderr)  # fmt: skip
        return 3
    tests = arguments or [str(HERE)]
    command = (
        f"cd {ROOT} && export PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp VIVID_MACHINE=1 "
        f"PYTHONDONTWRITEBYTECODE=1 && exec {sys.executable} -m pytest -p no:cacheprovider "
        f"-p no:hypothesispytest --timeout=600 {' '.join(tests)}"
    )
    with tempfile.TemporaryDirectory() as folder:
        packed = initial_files(Path(folder), command)
        (image,) = (kernel() / "boot").glob("vmlinuz*")
        process = subprocess.Popen(
            ["timeout", str(LIMIT_S), "qemu-system-x86_64", "-accel", "tcg,thread=multi",
             "-cpu", "max", "-smp", "2", "-m", "3072", "-nographic", "-no-reboot",
             "-kernel", image, "-initrd", packed, "-append", "console=ttyS0 panic=-1 quiet",
             "-fsdev", "local,id=host,path=/,security_model=none,readonly=on",
             "-device", "virtio-9p-pci,fsdev=host,mount_tag=host"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
        assert process.stdout is not None
        status = 3
        for line in process.stdout:
            print(line.rstrip("\r\n"), flush=True)
            if found := re.match(r"exit status (\d+)", line):
                status = int(found[1])
        process.wait()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

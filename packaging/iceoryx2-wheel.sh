#!/usr/bin/env bash
# Builds the wheel of iceoryx2 where none is published, as on arm64 (Jetson, KV260, Raspberry Pi):
#
#   packaging/iceoryx2-wheel.sh [FOLDER]        # dist if none is given
#   pip install FOLDER/iceoryx2-*.whl
#
# It takes the pinned source from PyPI and its crates from crates.io. Needed are Python with venv, a
# C compiler, and Rust of at least the version below (https://rustup.rs; Debian's and Ubuntu's may be
# older). One wheel serves every Python from 3.8 on, on machines whose glibc is no older.
set -euo pipefail

readonly RUST=1.89 # rust-version of iceoryx2 0.10's Cargo.toml
top=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-dist}")
version=$(sed -n 's/^iceoryx2==//p' "$top/requirements/runtime.txt")

fail() {
    echo "iceoryx2-wheel: $1" >&2
    exit 2
}
type cargo > /dev/null 2>&1 || fail "cargo is not installed; get Rust $RUST or newer from https://rustup.rs"
rust=$(cargo --version | cut -d ' ' -f 2)
if [ "$(printf '%s\n' "$RUST" "$rust" | sort -V | head -n 1)" != "$RUST" ]; then
    fail "cargo is $rust, and iceoryx2 $version needs Rust $RUST; rustup update brings it"
fi
type cc > /dev/null 2>&1 || fail "no C compiler; apt install build-essential"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" wheel --no-deps --no-binary iceoryx2 --wheel-dir "$scratch" "iceoryx2==$version"
"$scratch/venv/bin/pip" install --quiet "$scratch"/iceoryx2-*.whl

# One sample through shared memory: what imports may still not work.
"$scratch/venv/bin/python" - << 'END'
import ctypes

import iceoryx2 as iox2

node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
name = iox2.ServiceName.new("perception_nodes/wheel_test")
service = node.service_builder(name).publish_subscribe(iox2.Slice[ctypes.c_uint8]).open_or_create()
subscriber = service.subscriber_builder().create()
publisher = service.publisher_builder().initial_max_slice_len(64).create()
loan = publisher.loan_slice_uninit(64)
for index in range(64):
    loan.payload()[index] = index
loan.assume_init().send()
received = subscriber.receive().payload()
assert [received[index] for index in range(64)] == list(range(64))
END
mkdir -p "$folder"
mv "$scratch"/iceoryx2-*.whl "$folder"
echo "iceoryx2-wheel: $(ls "$folder"/iceoryx2-"$version"-*.whl)"

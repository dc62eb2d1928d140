"""The report of `gpu.py`: one HTML page, and the same as text."""

from typing import Any

from perception_nodes.report import page

Rows = list[list[str]]


def _us(ms: float) -> str:
    return f"{ms * 1e3:.1f}"


def _tables(result: dict[str, Any]) -> list[tuple[str, Rows]]:
    """Titles and rows, the first row a heading."""
    kernels: Rows = [
        ["frame", "lens", "µs", "MB moved", "GB/s", "of the card's", "in place p50 µs", "p99 µs"]
    ]
    for one in result["preprocess"]:
        moved = sum(one["moved_bytes"].values()) / 1e6
        kernels.append(
            [
                one["encoding"],
                one["lens"],
                f"{one['device_memory_us']:.2f}",
                f"{moved:.2f}",
                f"{one['gb_s']:.0f}",
                f"{one['of_bandwidth']:.0%}",
                _us(one["in_place_ms"]["p50"]),
                _us(one["in_place_ms"]["p99"]),
            ]
        )
    copies: Rows = [["frame", "MB", "p50 µs", "p99 µs", "GB/s"]]
    for one in result["copy_to_device"]:
        took = one["ms"]
        copies.append(
            [
                one["encoding"],
                f"{one['bytes'] / 1e6:.2f}",
                _us(took["p50"]),
                _us(took["p99"]),
                f"{one['gb_s']:.1f}",
            ]
        )
    decoding: Rows = [
        ["objects", "cells above the threshold", "boxes", "p50 µs", "p99 µs", "p99.9 µs"]
    ]
    for one in result["decode"]:
        took = [_us(one["ms"][rank]) for rank in ("p50", "p99", "p99_9")]
        decoding.append([one["objects"], str(one["found"]), str(one["boxes"]), *took])
    whole: Rows = [
        ["what is timed", "other work on the GPU", "frames", "p50 µs", "p99 µs", "p99.9 µs",
         "max µs", "over 3 ms"],
    ]  # fmt: skip
    for condition, one in result["whole"].items():
        for name, key in {
            "shared memory to boxes": "shared_memory_to_boxes_ms",
            "graph on the device": "graph_on_device_ms",
        }.items():
            late = str(one["over_3_ms"]) if key.startswith("shared") else ""
            took = [_us(one[key][rank]) for rank in ("p50", "p99", "p99_9", "max")]
            whole.append([name, condition, str(one["frames"]), *took, late])
    return [
        ("Preprocessing kernel, 1920 × 1080 to 640 × 384, frames in device memory", kernels),
        ("Copy of a frame to the device, for comparison", copies),
        ("Decoding and suppression", decoding),
        (f"The whole graph, nv12, network: {result['network']}", whole),
    ]


def _facts(result: dict[str, Any]) -> str:
    gpu, checks = result["gpu"], result["checks"]
    copies = [one["copies_a_frame"] for one in result["whole"].values()]
    return (
        f"{checks['cases']} cases equal the specification to the bit. Memory takes "
        f"{result['bandwidth_gb_s']:.0f} GB/s (filling it). Copies of a frame on the host: "
        f"{max(copies, default=0):g}. Bytes a frame to the device: "
        f"{result['host_to_device_bytes']:,}, back: {result['back_to_host_bytes']:,}. "
        f"CUDA {gpu['driver_cuda']}, {gpu['through']}."
    )


def text(result: dict[str, Any]) -> str:
    """For a terminal."""
    lines = [_facts(result), *result["missing"]]
    for title, rows in _tables(result):
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", title]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
    return "\n".join(lines)


def render(result: dict[str, Any]) -> str:
    """The page."""
    return page.render(
        "gpu.html.j2",
        heading=f"{result['gpu']['name']}; {result['machine']}",
        tone="good",
        verdict=_facts(result),
        missing=result["missing"],
        tables=_tables(result),
    )

"""The report of `gpu.py`: one HTML page, and the same as text."""

from typing import Any

from perception_nodes.report import page

Rows = list[list[str]]


def _us(ms: float) -> str:
    return f"{ms * 1e3:.1f}"


def _ways(transfer_us: dict[str, float], way: str) -> str:
    """How frames come: `fetch 40.1 µs, copy 61.0`, the one that is used first."""
    used = sorted(transfer_us, key=lambda one: one != way)
    return ", ".join(f"{one} {transfer_us[one]:.1f}" for one in used)


def _tables(result: dict[str, Any]) -> list[tuple[str, Rows]]:
    """Titles and rows, the first row a heading."""
    kernels: Rows = [
        [
            "frame",
            "lens",
            "µs",
            "MB moved",
            "GB/s",
            "of the card's",
            "frames come by, µs with kernel",
        ]
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
                _ways(one["transfer_us"], one["frames_come_by"]),
            ]
        )
    decoding: Rows = [
        ["objects", "cells above the threshold", "boxes", "p50 µs", "p99 µs", "p99.9 µs"]
    ]
    for one in result["decode"]:
        took = [_us(one["ms"][rank]) for rank in ("p50", "p99", "p99_9")]
        decoding.append([one["objects"], str(one["found"]), str(one["boxes"]), *took])
    tables = [
        ("Preprocessing kernel, 1920 × 1080 to 640 × 384, frames in device memory", kernels),
        ("Decoding and suppression", decoding),
    ]
    for network in result["networks"].values():
        tables.append((f"Shared memory to boxes, nv12: {network['name']}", _whole(network)))
    return tables


def _whole(network: dict[str, Any]) -> Rows:
    rows: Rows = [
        ["other work on the GPU", "pace", "frames", "p50 µs", "p99 µs", "p99.9 µs", "max µs",
         "over 2 ms", "copies a frame", "clock MHz"],
    ]  # fmt: skip
    ranks = ("p50", "p99", "p99_9", "max")
    for condition, paces in network["conditions"].items():
        for pace, one in paces.items():
            took = [_us(one["shared_memory_to_boxes_ms"][rank]) for rank in ranks]
            counts = [str(one["over_aim"]), f"{one['copies_a_frame']:g}"]
            clock = " / ".join(
                "–".join(f"{mhz:.0f}" for mhz in gpu["sm_mhz"])
                for gpu in one["clocks"].values()
                if "sm_mhz" in gpu
            )
            rows.append([condition, pace, str(one["frames"]), *took, *counts, clock or "not known"])
    took = [_us(network["graph_on_device_ms"][rank]) for rank in ranks]
    way = _ways(network["transfer_us"], network["frames_come_by"])
    registered = f"registered {network['registrations']} times"
    rows.append(["none", "graph on the device", "", *took, "", f"{way}; {registered}", ""])
    return rows


def _facts(result: dict[str, Any]) -> str:
    gpu, checks = result["gpu"], result["checks"]
    sanitizer = ", ".join(checks["sanitizer"]) or "not run"
    return (
        f"{checks['cases']} cases and {checks['layers']} layers of networks equal their "
        f"specification to the bit. Found nothing: compute-sanitizer ({sanitizer}). Memory takes "
        f"{result['bandwidth_gb_s']:.0f} GB/s (filling it). Bytes of a frame that come back to the "
        f"host: {result['back_to_host_bytes']:,}. CUDA {gpu['driver_cuda']}, {gpu['through']}."
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

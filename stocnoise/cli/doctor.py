"""`doctor`: what serves which device, and whether it computes what it should."""

from __future__ import annotations

from typing import Any

from stocnoise.conversion.summary import table
from stocnoise.doctor import diagnose


def add_flags(commands: Any) -> None:
    commands.add_parser(
        "doctor",
        help="print versions and devices, which implementation serves each and why, and try it against float64",
    )


def run() -> int:
    found = diagnose()
    print(*(f"{name} {version}" for name, version in found.versions.items()), f"kernels {found.kernels}", "", sep="\n")
    lines = [
        (one.device, one.dtype, one.implementation, "wrong" if one.fault else "right", one.reason)
        for one in found.served
    ]
    print(table(("device", "dtype", "served by", "against float64", "why"), lines, right=5))
    print("", *(f"wrong: {fault}" for fault in found.faults) if found.faults else ("all is well",), sep="\n")
    return 1 if found.faults else 0

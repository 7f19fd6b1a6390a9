"""What ran this: processor, versions, commit. Nothing that names the machine or its paths."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, threads, caches of one core, and the instruction sets that matter."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    info = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    have = (info.get("flags") or info.get("Features") or "").split()
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / f).read_text().strip() for f in ("level", "type", "size"))
        caches[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = size
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "family-model-stepping": "-".join(info.get(k, "?") for k in ("cpu family", "model", "stepping")),
        "arch": platform.machine(),
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # before anything is timed
        "caches": caches,
        "flags": [f for f in FLAGS if f in have],
        "LONGSHORT_CPU": os.environ.get("LONGSHORT_CPU"),
    }


def versions() -> dict[str, str]:
    """Python and the packages that were measured."""
    names = ("torch", "onnxruntime", "longshort")
    return {"python": platform.python_version()} | {n: version(n) for n in names}


def commit() -> tuple[str, bool]:
    """Short hash, and whether tracked files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))

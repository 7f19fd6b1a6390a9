"""What ran this: processor, versions, commit. Nothing that names the machine or its paths."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from longshort.engine import cpu, fast_bf16
from longshort.train import Training

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
        "caches": caches,
        "flags": [f for f in FLAGS if f in have],
        "instruction set": cpu.native.isa() if cpu.native is not None else None,  # of our kernels; LONGSHORT_CPU caps it
    }


class Others:
    """How much of the machine other programs use while this one measures, from creation on."""

    def __init__(self) -> None:
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        stat = Path("/proc/stat")
        ticks = [int(v) for v in stat.read_text().split("\n", 1)[0].split()[1:8]] if stat.exists() else [0] * 7
        busy = sum(ticks) - ticks[3] - ticks[4]  # all but idle and iowait
        return time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), time.process_time()

    def share(self, mine: float = 0.0) -> float:
        """Of all cores' time since then, 0 to 1; 0 where the system does not say. `mine`: CPU seconds of processes that this one
        has started."""
        wall, busy, own = (b - a for a, b in zip(self.start, self._now(), strict=True))
        return max(0.0, busy - own - mine) / (wall * (os.cpu_count() or 1)) if wall else 0.0


def versions(*more: str) -> dict[str, str]:
    """Python and the packages that were measured."""
    names = ("torch", "onnxruntime", "longshort", *more)
    return {"python": platform.python_version()} | {n: version(n) for n in names}


def commit(*paths: str) -> tuple[str, bool]:
    """Short hash, and whether tracked files differ from it; or, if paths are given, anything there."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    seen = ("--", *paths) if paths else ("--untracked-files=no",)
    return git("rev-parse", "--short", "HEAD"), bool(git("status", "--porcelain", *seen))


def trained(training: Training) -> dict[str, Any]:
    """The settings as a result carries them: bf16 only where this processor has computed in it."""
    return asdict(training) | {"bf16": training.bf16 and fast_bf16(torch.device("cpu"))}


def papers(kind: str, *packages: str, paths: tuple[str, ...] = ()) -> dict[str, Any]:
    """What every result carries: kind, date, commit, machine, versions."""
    hash_, dirty = commit(*paths)
    return {
        "kind": kind,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": hash_,
        "dirty": dirty,
        "machine": machine(),
        "versions": versions(*packages),
    }

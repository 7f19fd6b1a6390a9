"""The README's table, generated from the newest full run under benchmarks/results. `python -m benchmarks.table [--check]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cyclopts import App
from rich.table import Table

from benchmarks.cases import BLOCKS, TITLES
from benchmarks.machine import ROOT

BEGIN, END = "<!-- bench-engine:begin -->", "<!-- bench-engine:end -->"
app = App(name="benchmarks.table", help=__doc__)


def title(target: dict[str, Any]) -> str:
    """What a threshold is about."""
    if target["rival"] == "peak":
        return f"{BLOCKS[target['block']].title}, H >= 256: share of the matrix peak"
    if target["cost"]:
        return f"{BLOCKS[target['block']].title}: time of the dearest over the plain cell's"
    return f"{BLOCKS[target['block']].title}: speed against {TITLES[target['rival']]}"


def number(value: float | None, target: dict[str, Any]) -> str:
    """A ratio with its sign for 'times', or a share in per cent."""
    if value is None:
        return ""
    return f"{value:.0%}" if target["rival"] == "peak" else f"{digits(value)}x"


def target_rows(result: dict[str, Any]) -> list[list[str]]:
    """Geometric mean, threshold, aim, verdict."""
    rows = []
    for t in result["targets"]:
        bounds = ("<= " * t["cost"] + number(t[k], t) if t[k] is not None else "" for k in ("least", "aim"))
        needs = f"{t['met']}: no {t['needs']}" if t["met"] == "not judged" and t["needs"] else t["met"]
        rows.append([title(t), number(t["value"], t), *bounds, needs, str(t["cases"])])
        rows += [[f"... {name}", number(v, t), "", "", "", ""] for name, v in t.get("means", {}).items()]
    return rows


TARGET_HEAD = ["geometric means", "measured", "at least", "aim", "met", "cases"]


def case_rows(result: dict[str, Any], block: str) -> list[list[str]]:
    """Shape, then ms and GFLOP/s of everyone, share of the matrix peak, and the paired ratios with their quartiles."""
    rows = []
    for r in result["cases"]:
        if r["block"] != block:
            continue
        timed = [f"{digits(c['ms']['median'])} ({digits(c['gflops']['median'])})" for c in r["contestants"].values()]
        ratios = [f"{digits(v['median'])} ({digits(v['q1'])} - {digits(v['q3'])})" for v in r["ratios"].values()]
        name = f"{r['B']} {r['T']} {r['I']} {r['H']}" + (f" {r['variant']}" if block == "variant" else "")
        engine = r["contestants"]["ours"]["how"].removeprefix("engine ").split(",")[0]
        rows.append([name, engine, *timed, f"{r['contestants']['ours']['share']['median']:.0%}", *ratios])
    return rows


def case_head(block: str) -> list[str]:
    """The columns of `case_rows`."""
    rivals = [TITLES[r] for r in BLOCKS[block].rivals]
    against = ["ours / plain cell"] if block == "variant" else [f"{r} / ours" for r in rivals]
    return ["B T I H", "engine", "ours", *rivals, "ours / peak", *against]


def digits(value: float) -> str:
    """To three digits, never with an exponent."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def console_tables(result: dict[str, Any]) -> list[Table]:
    """For the terminal: the cases of each block, then the geometric means."""
    blocks = [b for b in BLOCKS if any(r["block"] == b for r in result["cases"])]
    all_ = [(f"{BLOCKS[b].title}: ms (GFLOP/s), ratios with quartiles", case_head(b), case_rows(result, b)) for b in blocks]
    tables = []
    for caption, head, rows in [*all_, ("what must hold", TARGET_HEAD, target_rows(result))]:
        table = Table(title=caption, title_justify="left", title_style="bold")
        for n, column in enumerate(head):
            table.add_column(column, justify="left" if n == 0 else "right")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown(result: dict[str, Any]) -> str:
    """For the README: where it was measured, the geometric means, and the cases folded away."""
    where, has = result["machine"], result["versions"]
    flags = [f for f in where["flags"] if f.startswith(("avx512f", "avx512_bf16", "amx", "asimd"))]
    lines = [
        f"{where['cpu']} ({where['family-model-stepping']}; {', '.join(flags) or 'avx2'}), {where['cores']} cores, "
        f"{where['threads']} threads, our kernels: {where['instruction set'] or 'not built'}; "
        f"Python {has['python']}, torch {has['torch']}, ONNX Runtime {has['onnxruntime']}; "
        f"commit {result['commit']}{' with changes' if result['dirty'] else ''}, {result['date'][:10]}; "
        f"medians of {result['rounds']} interleaved rounds, other programs took {result['others']:.0%} of the cores.",
        "",
        *_grid(TARGET_HEAD, target_rows(result)),
    ]
    for b in BLOCKS:
        if rows := case_rows(result, b):
            lines += ["", f"<details><summary>{BLOCKS[b].title}: ms (GFLOP/s), ratios with quartiles</summary>", ""]
            lines += [*_grid(case_head(b), rows), "", "</details>"]
    return "\n".join(lines)


def _grid(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def newest(folder: Path) -> dict[str, Any]:
    """The full run with the latest date."""
    runs = [json.loads(f.read_text()) for f in sorted(folder.glob("engine-*.json"))]
    full = [r for r in runs if not r["partial"]]
    if not full:
        raise FileNotFoundError(f"{folder.name} must hold a full run (engine-*.json), found none. Run `make bench-engine` first.")
    return max(full, key=lambda r: r["date"])


def insert(text: str, table: str) -> str:
    """The text with the table between the markers, replacing what stood there."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README.md must hold {BEGIN} and then {END}, each once.")
    return text[: text.index(BEGIN) + len(BEGIN)] + f"\n{table}\n" + text[text.index(END) :]


@app.default
def main(*, check: bool = False, results: Path = ROOT / "benchmarks/results", readme: Path = ROOT / "README.md") -> None:
    """Write the table into the README.

    Args:
        check: write nothing; fail if the README is not what would be written.
        results: folder of the runs.
        readme: the file with the markers.
    """
    old = readme.read_text()
    new = insert(old, markdown(newest(results)))
    if check and new != old:
        raise SystemExit(f"{readme.name} is older than benchmarks/results. Run `python -m benchmarks.table`.")
    if not check:
        readme.write_text(new)


if __name__ == "__main__":
    app()

"""The README's tables, generated from the newest full runs under benchmarks/results. `python -m benchmarks.table [--check]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cyclopts import App
from rich.table import Table

from benchmarks.cases import BLOCKS, TITLES
from benchmarks.machine import ROOT
from benchmarks.published import AIM, AN4, COVERAGE_ERROR, LEVEL, M4_OTHERS, M4S, MULTI30K, MUST, OWA, TOURISM
from benchmarks.stats import mean_sd
from longshort.memory import report
from longshort.memory.catalogue import tasks

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
    return [console_table(*t) for t in [*all_, ("what must hold", TARGET_HEAD, target_rows(result))]]


def console_table(caption: str, head: list[str], rows: list[list[str]]) -> Table:
    """For the terminal."""
    table = Table(title=caption, title_justify="left", title_style="bold")
    for n, column in enumerate(head):
        table.add_column(column, justify="left" if n == 0 else "right")
    for row in rows:
        table.add_row(*(cell.replace("**", "") for cell in row))
    return table


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


def m4_owa(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: OWA of ours, of what else ran, and of what others published; their mean where all three are there."""
    ran: dict[str, dict[str, float]] = {}
    for r in results:
        columns = {
            f"**ours, {len(r['seeds'])} models**": r["ensemble"],
            "**ours, one model**": {"OWA": r["one model"]["OWA"]["mean"]},
        }
        for name, scores in (columns | {f"{k}, measured": v for k, v in r["baselines"].items()}).items():
            ran.setdefault(name, {})[r["freq"]] = scores["OWA"]
    ours = {k: OWA(*(v.get(f) for f in M4S), mean=sum(v.values()) / 3 if len(v) == 3 else None) for k, v in ran.items()}
    rows = (ours | M4_OTHERS | {"must": MUST, "aim": AIM}).items()
    return ["OWA", *M4S, "mean"], [[k, *("" if v is None else f"{v:.3f}" for v in row)] for k, row in rows]


M4_HEAD = ["", "sMAPE", "MASE", "OWA", "MSIS", "coverage", "fit, s"]


def m4_scores(results: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of M4_HEAD: the scores of each frequency. One model is the mean over the seeds, with its standard deviation."""
    rows = []

    def add(name: str, scores: dict[str, Any], seconds: str) -> None:
        rows.append([name, *(_mean_sd(scores[k]) if k in scores else "" for k in M4_HEAD[1:-1]), seconds])

    for r in results:
        each = [s["seconds"]["fit"] for s in r["seeds"]]
        add(f"{r['freq']}: **{len(each)} models**", r["ensemble"], f"{sum(each):.0f}")
        add(f"{r['freq']}: **one model**", r["one model"], _mean_sd(r["one model"]["fit seconds"], 0))
        for name, scores in r["baselines"].items():
            add(f"{r['freq']}: {name}", scores, f"{scores['seconds']:.0f}")
        add(f"{r['freq']}: Naive2", r["Naive2"] | {"OWA": 1.0}, "")
        add(f"{r['freq']}: M4 winner", {"MSIS": M4S[r["freq"]].msis}, "")
    return rows


def m4_losses(result: dict[str, Any]) -> str:
    """Who is better than ours by more than noise, or what noise leaves open."""
    freq, owa = result["freq"], result["ensemble"]["OWA"]
    others = {name: v for name, row in M4_OTHERS.items() if (v := getattr(row, freq)) is not None and v < owa}
    said = [
        f"{n} {v:.3f}" + (" (noise)" if owa - v < M4S[freq].noise else "") for n, v in sorted(others.items(), key=lambda x: x[1])
    ]
    return f"{freq} {owa:.3f}: {', '.join(said) or 'none of these'}"


def m4_tables(results: list[dict[str, Any]]) -> list[Table]:
    """For the terminal: the OWA of everyone, then all scores of what ran."""
    split = "; ".join(f"{r['freq']}: {r['series']} series, {r['split']}, peak {r['peak MiB']} MiB" for r in results)
    return [console_table("OWA beside what others published (on the test part)", *m4_owa(results)),
            console_table(f"{split}; intervals of {LEVEL} %", M4_HEAD, m4_scores(results))]  # fmt: skip


def m4_markdown(folder: Path) -> str:
    """For the README: the newest full run of each frequency."""
    results = [r for f in M4S if (r := latest(folder, f"m4-{f}"))]
    if not results:
        return "Not measured yet: `make bench-m4`."
    off = max(r["ensemble"]["coverage error"] for r in results)
    honest = f"Largest coverage error {off:.3f} (at most {COVERAGE_ERROR})."
    return "\n".join([
        *(f"{r['freq'].capitalize()}: {where(r)}, peak {r['peak MiB']} MiB.  " for r in results), "",
        *_grid(*m4_owa(results)), "",
        f"Better than our ensemble: {'; '.join(map(m4_losses, results))}. {honest}",
        "", f"<details><summary>All scores; intervals of {LEVEL} %; mean ± standard deviation over seeds</summary>", "",
        *_grid(M4_HEAD, m4_scores(results)), "", "</details>",
    ])  # fmt: skip


FORECAST_HEAD = ["", "MASE", "wQL", "coverage of 80 %", "s"]


def forecast_rows(result: dict[str, Any]) -> list[list[str]]:
    """Rows of FORECAST_HEAD: each data set's scores of ours and of the baselines, then what the Monash archive lists."""
    rows = []
    for case in result["cases"]:
        for name, scores in case["scores"].items():
            label = f"{case['name']}: **{name}**" if name.startswith("LSTM") else f"{case['name']}: {name}"
            rows.append([label, *(_mean_sd(scores[k]) for k in ("MASE", "wQL", "coverage")), _mean_sd(scores["seconds"], 0)])
        kind = case["name"].removeprefix("tourism ")
        if kind in (kinds := ("yearly", "quarterly", "monthly")):
            rows += [[f"{case['name']}: {k} (Monash)", f"{v[kinds.index(kind)]:.3f}", "", "", ""] for k, v in TOURISM.items()]
    return rows


def forecast_markdown(folder: Path) -> str:
    """For the README: the newest full run."""
    result = latest(folder, "forecast")
    if not result:
        return "Not measured yet: `make bench-forecast`."
    notes = [f"{c['name']}: {c['note']}" for c in result["cases"]]
    notes += [f"processes: {result['processes']}"] if "processes" in result else []
    return "\n".join([f"{where(result)}; mean ± standard deviation over {result['seeds']} seeds. {'; '.join(notes)}.", "",
                      *_grid(FORECAST_HEAD, forecast_rows(result))])  # fmt: skip


SPEECH_HEAD = ["", "WER, %", "CER, %", "95 % interval of WER, first seed", "parameters, M", "training, s", "real-time factor"]


def speech_rows(result: dict[str, Any]) -> list[list[str]]:
    """Rows of SPEECH_HEAD: ours, then what others published."""
    rows = []
    for case in result["cases"]:
        first = case["seeds"][0]
        took, speed = _mean_sd(mean_sd(r["fit seconds"] for r in case["seeds"]), 0), first["speed"]
        for name, mean in case["mean"].items():
            score = first["scores"][name]
            between = f"{score['WER-lo-95']:.1f} to {score['WER-hi-95']:.1f}"
            factor = f"{speed['real-time factor']:.4f}" if speed and name == "greedy" else ""
            rows.append([f"**{case['name']}**, {name}", _mean_sd(mean["WER"], 2), _mean_sd(mean["CER"], 2), between,
                         f"{case['parameters'] / 1e6:.2f}", took, factor])  # fmt: skip
    return rows + [[k, str(w), "" if c is None else str(c), "", "", "", ""] for k, (w, c) in AN4.items()]


def speech_markdown(folder: Path) -> str:
    """For the README: the newest full run."""
    result = latest(folder, "speech", partial=True)
    if not result:
        return "Not measured yet: `make bench-speech`."
    seeds = len(result["cases"][0]["seeds"])
    how = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed of three: a partial run"
    return "\n".join([f"{where(result)}; {how}; streams on one core; training times are of "
                      "one thread, without the models that a case starts from.", "",
                      *_grid(SPEECH_HEAD, speech_rows(result))])  # fmt: skip


TRANSLATE_SCORES = {"Multi30k BLEU": "Multi30k BLEU", "BLEU": "sacreBLEU", "chrF2": "chrF2"}
COST_HEAD = ["", "parameters, M", "training, s", "tokens/s", "peak MiB", "greedy, sentences/s", "beam 5, sentences/s",
             "one sentence greedy, ms", "with a shortlist"]  # fmt: skip


def translate_head(result: dict[str, Any]) -> list[str]:
    """The columns of `translate_rows`: each score on each part."""
    years = [part.removeprefix("test_").removesuffix("_flickr") for part in result["cases"][0]["mean"]]
    return [
        "",
        *(f"{title} {year}" for title in TRANSLATE_SCORES.values() for year in years),
        "95 % of the first score, one seed",
    ]


def translate_rows(result: dict[str, Any]) -> list[list[str]]:
    """Each direction: ours, then, on the test parts, what others published and what we asked of ourselves."""
    rows = []
    for case in result["cases"]:
        name, seeds, parts = f"**{case['name']}**", case["seeds"], list(case["mean"])
        greedy = {p: {k: mean_sd(r["greedy"][p][k]["value"] for r in seeds[:3]) for k in TRANSLATE_SCORES} for p in parts}
        ways = {"greedy": (greedy, seeds[0]["greedy"]), "beam 5": (case["mean"], seeds[0]["beam 5"])}
        if together := case.get("ensemble"):
            values = {p: {k: together[p][k]["value"] for k in TRANSLATE_SCORES} for p in parts}
            ways[f"ensemble of {together['models']}, beam 5"] = values, together
        for way, (scores, one) in ways.items():
            first = one[parts[0]][next(iter(TRANSLATE_SCORES))]
            rows.append([f"{name}, {way}", *(_mean_sd(scores[p][k], 2) for k in TRANSLATE_SCORES for p in parts),
                         f"{first['low']:.1f} to {first['high']:.1f}"])  # fmt: skip
        others = MULTI30K.get(case["name"], {}) if len(parts) == 2 else {}
        rows += [[f"{case['name']}: {k}", *v, *[""] * (len(rows[-1]) - 3)] for k, v in others.items()]
    return rows


def cost_rows(result: dict[str, Any]) -> list[list[str]]:
    """Rows of COST_HEAD: each direction, means over its seeds; the speed of translating is that of the first."""
    rows = []
    for case in result["cases"]:
        seeds = case.get("seeds") or [case]
        speed = seeds[0]["speed"]
        took, rate = (_mean_sd(mean_sd(r[k] for r in seeds), 0) for k in ("fit seconds", "tokens per second"))
        fast = (f"{speed[k]:.0f}" for k in ("greedy, sentences per second", "beam 5, sentences per second"))
        alone = (
            f"{speed[k]:.1f}" if k in speed else "" for k in ("greedy, one sentence ms", "greedy, shortlist, one sentence ms")
        )
        peak = max(r["peak MiB"] for r in seeds)
        rows.append([case["name"], f"{seeds[0]['parameters'] / 1e6:.2f}", took, rate, str(peak), *fast, *alone])
    return rows


TATOEBA_HEAD = ["Tatoeba", "sentences", "BLEU", "95 %", "chrF2", "perplexity"]


def tatoeba_rows(result: dict[str, Any]) -> list[list[str]]:
    """Rows of TATOEBA_HEAD: each direction and way to search."""
    rows = []
    for case in result["cases"]:
        for way in ("greedy", "beam 5"):
            s = case[way]
            rows.append([f"**{case['name']}**, {way}", f"{case['pairs'][case['part']]:,}", f"{s['BLEU']['value']:.1f}",
                         f"{s['BLEU']['low']:.1f} to {s['BLEU']['high']:.1f}", f"{s['chrF2']['value']:.1f}",
                         f"{s['perplexity']:.2f}"])  # fmt: skip
    return rows


JOEY_HEAD = ["training", "target tokens/s, median (quartiles)", "ours is so many times as fast", "parameters, M"]


def joey_rows(result: dict[str, Any]) -> list[list[str]]:
    """Rows of JOEY_HEAD: ours, then each way to run JoeyNMT."""
    rows = []
    for name, row in result["contestants"].items():
        speed, ratio = row["tokens per second"], result["ratios"].get(name)
        rows.append([f"**{name}**" if name == "ours" else name, f"{speed['median']:.0f} ({speed['q1']:.0f} - {speed['q3']:.0f})",
                     f"{ratio['median']:.2f} ({ratio['q1']:.2f} - {ratio['q3']:.2f})" if ratio else "",
                     f"{row['parameters'] / 1e6:.2f}"])  # fmt: skip
    return rows


def translate_markdown(folder: Path) -> str:
    """For the README: of each direction the newest run, and the newest full runs on Tatoeba and against JoeyNMT."""
    newest = {case["name"]: r for r in runs(folder, "translate") for case in r["cases"]}
    joey, tatoeba, lines = latest(folder, "joey"), latest(folder, "tatoeba"), list[str]()
    alone = latest(folder, "alone", partial=True)  # a run of one seed on all cores, put there under this name
    for result in {id(r): r for r in newest.values()}.values():
        lines += _directions(result | {"cases": [c for c in result["cases"] if newest[c["name"]] is result]})
    if newest:
        case = next(iter(newest.values()))["cases"][0]
        part, scores = next(iter(case["seeds"][0]["beam 5"].items()))
        lines += [f"<details><summary>Signatures of the scores ({case['name']}, {part.replace('_', ' ')})</summary>", "",
                  *(f"- {title}: `{scores[k]['signature']}`" for k, title in TRANSLATE_SCORES.items()),
                  "", "</details>"]  # fmt: skip
    else:
        lines = ["Not measured yet: `make bench-translate`."]
    if alone:
        (case,) = alone["cases"]
        one, part = case["seeds"][0], next(iter(case["mean"]))
        greedy, beam = (one[way][part]["Multi30k BLEU"]["value"] for way in ("greedy", "beam 5"))
        minutes = one["fit seconds"] / 60
        lines += ["", f"One model of {case['name']} alone on {one['threads']} threads took {minutes:.0f} minutes to train and "
                  f"has {greedy:.2f} greedy and {beam:.2f} with a beam of five of Multi30k BLEU 2016 "
                  f"(`python -m benchmarks.translate --only {case['name']} --seeds 1`): {where(alone)}."]  # fmt: skip
    if tatoeba:
        counts, scores = tatoeba["cases"][0]["pairs"], tatoeba["cases"][0]["beam 5"]
        lines += ["", f"German and English of Tatoeba, {counts['train']:,} pairs to learn from, other sentences to be scored on "
                  f"(`make bench-tatoeba`): {where(tatoeba)}; `{scores['BLEU']['signature']}`.", "",
                  *_grid(TATOEBA_HEAD, tatoeba_rows(tatoeba)), "", *_grid(COST_HEAD, cost_rows(tatoeba))]  # fmt: skip
    if joey:
        theirs = next(v for k, v in joey["contestants"].items() if k.startswith("JoeyNMT"))
        how = f"{joey['rounds']} interleaved rounds over the same {joey['batches']} batches, one pass and one attention"
        lines += ["", f"Training beside JoeyNMT {theirs['version']} (`make bench-joey`): {where(joey)}; {how}.", "",
                  *_grid(JOEY_HEAD, joey_rows(joey))]  # fmt: skip
    return "\n".join(lines)


def _directions(result: dict[str, Any]) -> list[str]:
    """A run's scores and costs."""
    threads = sorted({seed["threads"] for case in result["cases"] for seed in case["seeds"]})
    how = "mean ± standard deviation over up to three seeds"
    if result["partial"]:
        seeds = max(len(case["seeds"]) for case in result["cases"])
        how = f"a partial run: {seeds} seed{'s' * (seeds > 1)} of {', '.join(case['name'] for case in result['cases'])}"
    how += f", costs over all; trained on {' or '.join(map(str, threads))} thread{'s' * (threads[-1] > 1)} each"
    how += f", translated on {result['machine']['threads']}"
    return [f"{where(result)}; {how}.", "", *_grid(translate_head(result), translate_rows(result)), "",
            *_grid(COST_HEAD, cost_rows(result)), ""]  # fmt: skip


def memory_markdown(folder: Path) -> str:
    """For the README: the newest full run, or the newest partial one."""
    result = latest(folder, "memory", partial=True)
    if not result:
        return "Not measured yet: `make bench-memory`."
    took = f"{result['seeds']} seeds, {result['processes']} processes of one thread, {report.hours(result)}"
    if result["partial"]:
        titles = [t["title"] for t in result["tasks"]]
        took += f"; a partial run, without {'; '.join(t.title for t in tasks().values() if t.title not in titles) or 'some nets'}"
    return "\n".join([f"{where(result)}; {took}.", "", *_grid(report.head(result), report.rows(result)), "",
                      "<details><summary>How each task was learned: Adam, all nets alike</summary>", "",
                      *_grid(report.RECIPE_HEAD, report.recipe_rows(result)), "", "</details>"])  # fmt: skip


def where(result: dict[str, Any]) -> str:
    """Machine, versions, commit and date."""
    m, has, made = result["machine"], result["versions"], f"commit {result['commit']}, {result['date'][:10]}"
    return f"{m['cpu']}, {m['cores']} cores, Python {has['python']}, torch {has['torch']}, {made}"


def _mean_sd(value: float | dict[str, float], digits: int = 3) -> str:
    """A number, or the mean of several with its standard deviation."""
    if isinstance(value, dict):
        return f"{value['mean']:.{digits}f}" + (f" ± {value['sd']:.{digits}f}" if value["sd"] else "")
    return f"{value:.{digits}f}"


def runs(folder: Path, name: str) -> list[dict[str, Any]]:
    """All runs of a name, by date."""
    return sorted((json.loads(f.read_text()) for f in folder.glob(f"{name}-*.json")), key=lambda r: r["date"])


def latest(folder: Path, name: str, partial: bool = False) -> dict[str, Any] | None:
    """The full run of a name with the latest date, if there is one; else, if asked for, the latest partial one: those come here
    only where somebody has put them, for lack of a full one."""
    have = runs(folder, name)
    some = [r for r in have if not r["partial"]] or (have if partial else [])
    return some[-1] if some else None


def engine_markdown(folder: Path) -> str:
    """For the README: of each instruction set the newest full run.

    Raises:
        FileNotFoundError: there is none.
    """
    newest = {r["machine"]["instruction set"]: r for r in runs(folder, "engine") if not r["partial"]}
    if not newest:
        raise FileNotFoundError(f"{folder.name} must hold a full run (engine-*.json), found none. Run `make bench-engine` first.")
    return "\n\n".join(markdown(r) for r in newest.values())


SECTIONS = {"engine": engine_markdown, "m4": m4_markdown, "forecast": forecast_markdown, "speech": speech_markdown,
            "translate": translate_markdown, "memory": memory_markdown}  # fmt: skip


def insert(text: str, table: str, section: str = "engine") -> str:
    """The text with the table between the markers of a section, replacing what stood there."""
    begin, end = f"<!-- bench-{section}:begin -->", f"<!-- bench-{section}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"README.md must hold {begin} and then {end}, each once.")
    return text[: text.index(begin) + len(begin)] + f"\n{table}\n" + text[text.index(end) :]


@app.default
def main(*, check: bool = False, results: Path = ROOT / "benchmarks/results", readme: Path = ROOT / "README.md") -> None:
    """Write the tables into the README.

    Args:
        check: write nothing; fail if the README is not what would be written.
        results: folder of the runs.
        readme: the file with the markers.
    """
    new = old = readme.read_text()
    for section, table in SECTIONS.items():
        new = insert(new, table(results), section)
    if check and new != old:
        raise SystemExit(f"{readme.name} is older than benchmarks/results. Run `python -m benchmarks.table`.")
    if not check:
        readme.write_text(new)


if __name__ == "__main__":
    app()

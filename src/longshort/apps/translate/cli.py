"""The verbs of translation on the command line; `longshort.cli` finds them here by name."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from longshort.apps.translate import data as corpus
from longshort.apps.translate.config import Config
from longshort.apps.translate.decode import Search
from longshort.apps.translate.flags import (
    ASK,
    CHOOSE,
    DRAWS,
    NOTHING,
    PLAIN,
    Asked,
    Files,
    SearchFlags,
    flag,
    sentence_pairs,
)
from longshort.apps.translate.pipe import ahead, counted, openable, read, writer
from longshort.apps.translate.translation import Translation
from longshort.apps.translate.translator import AHEAD, BROUGHT, CELL, DEFAULT, Translator
from longshort.artefact import prepare
from longshort.cell import Cell
from longshort.flags import HOW, MANY, SHOWN, VARIANT, Flag, as_asked, begun, ended, flags, given, over, warned, writable
from longshort.probe import Shown
from longshort.scripts import save
from longshort.train import Training, resume_path

WHAT = Parameter(name="*", **MANY, group=Group("What to translate with, and how large a network", sort_key=1))
if TYPE_CHECKING:
    ConfigFlags = Config
    CellFlags = Cell
    HowFlags = Training
else:
    ConfigFlags, CellFlags, HowFlags = flags(Config()), flags(CELL), flags(DEFAULT, {"steps": None})


def train(
    *,
    src: Files = (),
    tgt: Files = (),
    data: Files = (),
    columns: str | None = None,
    more: Files = (),
    valid_src: Files = (),
    valid_tgt: Files = (),
    valid: Files = (),
    out: Path = Path("model.safetensors"),
    start: Path | None = None,
    resume: Flag = False,
    quiet: Flag = False,
    log: Path | None = None,
    shown: Annotated[Shown, SHOWN] = Shown(),  # noqa: B008
    config: Annotated[ConfigFlags, WHAT] = ConfigFlags(),  # noqa: B008
    cell: Annotated[CellFlags, VARIANT] = CellFlags(),  # noqa: B008
    training: Annotated[HowFlags, HOW] = HowFlags(),  # noqa: B008
) -> None:
    """Train a translator on sentence pairs: two files, of which line n of one translates line n of the other, or one file with
    tabs. Files are UTF-8, perhaps gzipped.

    The state of the run is saved beside OUT, every minute and on Ctrl-C, and deleted when OUT is written.

    Args:
        src: sentences, one per line; one file or several.
        tgt: their translations, line by line, in as many files.
        data: instead of both, files with a pair per line, between them a tab.
        columns: where source and target stand in DATA and VALID, such as 1,2; the first column is 1.
        more: further pairs, files of two columns such as `longshort backtranslate` writes.
        valid_src: other sentences, which tell which weights are best, how long translations should be and how sure they are.
        valid_tgt: their translations.
        valid: instead of both, a file with tabs.
        out: file for the model.
        start: a model to start from, to train it further on other pairs. Its vocabularies are taken, its weights where they fit,
            and its settings where no flag says otherwise.
        resume: go on with a run that was stopped or killed; repeat its other flags.
        quiet: print nothing.
        log: file for one JSON line per score.
    """
    writable((*src, *tgt, *data, *more, *valid_src, *valid_tgt, *valid), out, log, shown.preview)
    further = shown.ready()
    state = resume_path(out)
    first = Translator() if start is None else Translator.load(start)
    made = Translator(config=over(first.config, config), training=as_asked(training, DEFAULT), cell=over(first.cell, cell))
    made.more = not {"epochs", "steps"} & {*given(training)}
    if start is not None and (alone := [k for k in BROUGHT if getattr(made.config, k) != getattr(first.config, k)]):
        raise ValueError(f"--start brings its vocabularies, which {flag(alone[0])} cannot change. Leave one of them out.")
    pairs = sentence_pairs(src, tgt, data, columns if data or not valid else None)
    pairs += [pair for path in more for pair in corpus.read(path)]
    judges = None
    if valid_src or valid_tgt or valid:
        judges = sentence_pairs(valid_src, valid_tgt, valid, columns if valid else None, "valid-src", "valid-tgt", "valid")
    talks = begun([state], resume, quiet)
    with warned(talks):
        made.fit(pairs, judges, start=start and first, progress=talks, checkpoint=state, resume=resume, log=log, **further)
    ended(made, out, [state], talks, log, shown.tensorboard)


def predict(
    model: Path, /, *files: Path, out: Path | None = None, format: Literal["text", "json"] = "text", picture: Path | None = None,
    quiet: Flag = False, search: Annotated[SearchFlags, CHOOSE] = PLAIN, asked: Annotated[Asked, ASK] = NOTHING,
) -> None:  # fmt: skip
    """Translate text. Each line is a sentence; empty lines, tabs and blanks at the ends of lines stay where they are.

    Lines are translated as they come: at once when somebody types them, many side by side when there are many. What comes out
    does not depend on that.

    Args:
        model: a file that `longshort train translate` wrote.
        files: text files, perhaps gzipped; without them the text comes from standard input.
        out: file for the translation, gzipped if it ends in .gz; without it the translation goes to standard output.
        format: text; or json, an object per sentence with its line and all that is known of its translation.
        picture: folder for one PNG per sentence: which words each word of its translation looked at.
        quiet: say nothing but the translation.
    """
    how = asked.how(search)
    if format == "text" and search.alternatives > 1:
        raise ValueError(f"text has room for one translation, got --alternatives {search.alternatives}. Take --format json, too.")
    if lost := [path for path in files if not path.exists()]:
        raise ValueError(f"{lost[0]}: there is no such file. Text itself comes in like this: "
                         f"echo {shlex.quote(str(lost[0]))} | longshort predict {model}")  # fmt: skip
    openable(files)
    path = None if out is None else prepare(out, *files, model, *asked.ensemble, asked.glossary)
    if picture is not None:
        picture.mkdir(parents=True, exist_ok=True)
    translator = Translator.load(model, *asked.ensemble)
    if not files and not quiet and sys.stdin is not None and sys.stdin.isatty():
        print("type a line to translate it; Ctrl-D ends", file=sys.stderr)
    number, cut, unmet = 1, 0, 0
    typed = path is None and sys.stdout.isatty()
    with writer(path) as write, counted("translated", not (quiet or typed)) as advance, warned(not quiet):
        for group in ahead(read(files), AHEAD):
            pieces = []
            for line, (layout, made) in zip(group, translator.explain_each(group, **how), strict=True):
                if format == "text":
                    pieces.append(layout.join([t.text for t in made]))
                else:
                    pieces += (json.dumps({"line": number} | t.json(), ensure_ascii=False) + "\n" for t in made)
                if picture is not None:
                    for k, t in enumerate(made, 1):
                        _draw(t, picture / f"line-{number:05}{f'-{k}' if len(made) > 1 else ''}.png")
                cut, unmet = cut + sum(not t.finished for t in made), unmet + sum(not t.met for t in made)
                number += line.endswith("\n")
            write("".join(pieces))
            advance(len(group))
    if not quiet:
        for n, said in ((cut, "became too long and are cut (--ratio, --extra)"), (unmet, "do not hold all that was asked for")):
            if n:
                print(f"{n} translations {said}", file=sys.stderr)
        if path is not None:
            print(f"wrote {path}")


def evaluate(
    model: Path, /, *, src: Files = (), tgt: Files = (), data: Files = (), columns: str | None = None,
    language: str | None = None, out: Path | None = None, outputs: Path | None = None, quiet: Flag = False,
    search: Annotated[SearchFlags, CHOOSE] = PLAIN, asked: Annotated[Asked, ASK] = NOTHING,
) -> None:  # fmt: skip
    """Score a translator on sentences whose translations are known: BLEU and chrF of raw, cased text with sacreBLEU's signatures,
    perplexity, speed, worst sentences.

    Args:
        model: a file that `longshort train translate` wrote.
        src: sentences, one per line, perhaps gzipped.
        tgt: their translations, line by line.
        data: instead of both, a file with a pair per line, between them a tab.
        columns: where source and target stand in DATA, such as 1,2; the first column is 1.
        language: two letters of the target language, such as de: then the score of papers on Multi30k is there as well, of lower
            case and Moses' tokens; it must not be compared with the others.
        out: file for scores and worst sentences as JSON.
        outputs: file for the translations, one per line.
        quiet: print nothing; only useful with --out or --outputs.
    """
    how = asked.how(search)
    writable((*src, *tgt, *data, model, *asked.ensemble, asked.glossary), out, outputs)
    paths = [path for path in (out, outputs) if path is not None]
    pairs = corpus.judges(sentence_pairs(src, tgt, data, columns))
    with warned(not quiet):
        made = Translator.load(model, *asked.ensemble).evaluate(pairs, language, **how)
    told = made.json()
    if not quiet:
        show(told, [str(score) for score in made.scores.values()])
    if outputs is not None:
        with writer(outputs) as write:
            write("".join(f"{text}\n" for text in made.outputs))
    if out is not None:
        out.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if paths and not quiet:
        print(f"wrote {' and '.join(map(str, paths))}")


def show(told: dict[str, Any], scores: Sequence[str]) -> None:
    """Print an evaluation."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for score in scores:
        console.print(score, highlight=False, markup=False, soft_wrap=True)
    alike = told["confidence and chrF"]
    console.print(f"{told['sentences']} sentences, {told['sentences per second']:.1f} per second; perplexity "
                  f"{told['perplexity']:.4g} per token" + ("" if alike is None else
                  f"; rank correlation of confidence and chrF {alike:.2f}"), highlight=False, soft_wrap=True)  # fmt: skip
    if told["worst"]:
        table = Table(title="worst sentences", title_justify="left", show_lines=True)
        for name in ("source", "translation", "should be"):
            table.add_column(name, overflow="fold")
        table.add_column("chrF", justify="right", min_width=5)
        for row in told["worst"][:5]:
            table.add_row(*(Text(row[k]) for k in ("source", "output", "target")), f"{row['chrF']:.1f}")
        console.print(table)


def backtranslate(
    model: Path, text: Path, /, *, out: Path, confidence: float = 0.0, longest: int = 128, beam: int | None = None,
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0, quiet: Flag = False,
) -> None:  # fmt: skip
    """Make sentence pairs of text in the target language alone, to train on beside real ones: `train translate --more`.

    MODEL translates the other way: from the language of TEXT to the one that will be the source. Each line becomes the target of
    a pair, and its translation the source. Translations are drawn, which helps more than the best ones where there are many real
    pairs (Edunov et al. 2018); where there are few, or MODEL is weak, --beam 5 is better.

    Args:
        model: a file that `longshort train translate` wrote.
        text: a text file, one sentence per line, perhaps gzipped.
        out: file for the pairs, source and target with a tab between them; gzipped if it ends in .gz.
        confidence: leave out translations that are less sure than this, in [0, 1]. Drawn ones are less sure than the best.
        longest: leave out lines with more tokens.
        beam: take the best of so many hypotheses instead of drawing.
        temperature: of draws: below 1 is more careful.
        top_k: draw each word from so many best ones only; 0 from all.
        top_p: draw each word from the fewest best ones that have this probability together.
        seed: of draws.
        quiet: print nothing.
    """
    from longshort.apps.translate.backtranslate import backtranslated

    if not 0 <= confidence <= 1:
        raise ValueError(f"--confidence must be in [0, 1], got {confidence:g}.")
    drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    if beam is not None and (alone := [k for k, v in drawn.items() if v != DRAWS[k]]):
        raise ValueError(f"{flag(alone[0])} is of draws, and --beam draws nothing. Leave one of them out.")
    how: dict[str, Any] = {"beam": beam} if beam is not None else {"sample": True} | drawn
    Search(**how)
    openable([text])
    path, translator, drops, count = prepare(out, text, model), Translator.load(model), list[corpus.Drop](), 0
    made = backtranslated(translator, corpus.lines(text), drops, name=str(text), confidence=confidence, longest=longest, **how)
    with writer(path) as write, counted("kept", not quiet) as advance:
        for pair in made:
            write(f"{pair.source}\t{pair.target}\n")
            count += 1
            advance(1)
    if not count:
        path.unlink()
        raise ValueError(f"{text} gave no pair. {corpus.said(drops)}")
    if not quiet:
        print(f"{count} pairs {'by drawing' if beam is None else f'by beams of {beam}'}. {corpus.said(drops)}")
        print(f"wrote {path}")


def score(
    model: Path, /, *, src: Files = (), tgt: Files = (), data: Files = (), columns: str | None = None, out: Path | None = None,
    ensemble: Files = (), quiet: Flag = False,
) -> None:  # fmt: skip
    """Say how likely given translations are: the natural log-probability of each, end included, a number per line.

    Args:
        model: a file that `longshort train translate` wrote.
        src: sentences, one per line, perhaps gzipped.
        tgt: their translations, line by line.
        data: instead of both, a file with a pair per line, between them a tab.
        columns: where source and target stand in DATA, such as 1,2; the first column is 1.
        out: file for the numbers; without it they go to standard output.
        ensemble: further models with the same vocabularies; their probabilities are averaged.
        quiet: say nothing but the numbers.
    """
    path = None if out is None else prepare(out, *src, *tgt, *data, model, *ensemble)
    pairs = sentence_pairs(src, tgt, data, columns)
    translator = Translator.load(model, *ensemble)
    with writer(path) as write, counted("scored", not quiet and (path is not None or not sys.stdout.isatty())) as advance:
        for k in range(0, len(pairs), AHEAD):
            made = translator.score(pairs[k : k + AHEAD])
            write("".join(f"{logp:.4f}\n" for logp in made))
            advance(len(made))
    if path is not None and not quiet:
        print(f"wrote {path}")


def inspect(
    model: Path, text: str, /, *, translation: str | None = None, out: Path | None = None, serve: Flag = False, port: int = 0,
    quiet: Flag = False,
) -> None:  # fmt: skip
    """Look into a translator: which words of the source, and which of its own, each word was written by, what gates and cells do,
    how far gradients flow. Prints what to know and writes a page.

    Args:
        model: a file that `longshort train translate` wrote.
        text: a sentence.
        translation: one to look at instead of the one that it finds: how likely is that, and why?
        out: file for the page, .html; without it inspect.html, or none with --serve.
        serve: serve the page on this machine until Ctrl-C, and look again whenever the file of the model changes.
        port: where to serve it; 0 takes a free one.
        quiet: print nothing but where the page is served.
    """
    from longshort.apps.translate.inspect import subject
    from longshort.inspection import inspect as look
    from longshort.inspection import present

    def make() -> Any:
        return look(subject(Translator.load(model), text, translation=translation))

    present(make, model, out=out, serve=serve, port=port, quiet=quiet)


def _draw(made: Translation, path: Path) -> None:
    from longshort.apps.translate.plot import attention

    save(attention(made.attention, made.source_pieces, made.pieces, made.text), path)

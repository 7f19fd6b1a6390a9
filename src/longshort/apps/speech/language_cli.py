"""The verbs of language models on the command line; `longshort.cli` finds them here.

They lie in this room and have none of their own: a language model speaks the tokens of a recogniser, and helps no other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from longshort.apps.speech.language import DEFAULT, LanguageModel
from longshort.apps.speech.language_task import LanguageConfig
from longshort.artefact import prepare
from longshort.cell import Cell
from longshort.flags import HOW, MANY, SHOWN, VARIANT, Flag, as_asked, begun, ended, flags, warned, writable
from longshort.probe import Shown
from longshort.train import Training, resume_path

WHAT = Parameter(name="*", **MANY, group=Group("How large a model", sort_key=1))
if TYPE_CHECKING:
    HowFlags = Training
else:
    HowFlags = flags(DEFAULT, {"steps": None})


def train(
    *,
    text: Path,
    recognizer: Path,
    valid: Path | None = None,
    out: Path = Path("language.safetensors"),
    resume: Flag = False,
    quiet: Flag = False,
    log: Path | None = None,
    shown: Annotated[Shown, SHOWN] = Shown(),  # noqa: B008
    config: Annotated[LanguageConfig, WHAT] = LanguageConfig(),  # noqa: B008
    cell: Annotated[Cell, VARIANT] = Cell(),  # noqa: B008
    training: Annotated[HowFlags, HOW] = HowFlags(),  # noqa: B008
) -> None:
    """Train a language model for a recogniser on text, one sentence per line.

    The state of the run is saved beside OUT, every minute and on Ctrl-C, and deleted when OUT is written.

    Args:
        text: a text file, UTF-8, perhaps gzipped; lines that the recogniser cannot spell are left out.
        recognizer: the recogniser whose tokens it shall predict, a file that `longshort train speech` wrote.
        valid: other text, which tells which weights are best.
        out: file for the model.
        resume: go on with a run that was stopped or killed; repeat its other flags.
        quiet: print nothing.
        log: file for one JSON line per score.
    """
    writable((text, recognizer, valid), out, log, shown.preview)
    more = shown.ready()
    state = resume_path(out)
    talks = begun([state], resume, quiet)
    made = LanguageModel(config=config, training=as_asked(training, DEFAULT), cell=cell)
    with warned(talks):
        made.fit(text, valid, units_of=recognizer, progress=talks, checkpoint=state, resume=resume, log=log,
                 **more)  # fmt: skip
    ended(made, out, [state], talks, log, shown.tensorboard)


def inspect(
    model: Path, text: str, /, *, out: Path | None = None, serve: Flag = False, port: int = 0, quiet: Flag = False
) -> None:
    """Look into a language model while it reads: which earlier words made each word likely, what gates and cells do, how far
    gradients flow. Prints what to know and writes a page.

    Args:
        model: a file that `longshort train language` wrote.
        text: a sentence.
        out: file for the page, .html; without it inspect.html, or none with --serve.
        serve: serve the page on this machine until Ctrl-C, and look again whenever the file of the model changes.
        port: where to serve it; 0 takes a free one.
        quiet: print nothing but where the page is served.
    """
    from longshort.apps.speech.language_inspect import subject
    from longshort.inspection import inspect as look
    from longshort.inspection import present

    present(lambda: look(subject(LanguageModel.load(model), text)), model, out=out, serve=serve, port=port, quiet=quiet)


def evaluate(model: Path, /, *, data: Path, out: Path | None = None, quiet: Flag = False) -> None:
    """Score a language model on text: perplexity per token, and bits per character.

    Args:
        model: a file that `longshort train language` wrote.
        data: a text file, one sentence per line.
        out: file for the scores as JSON.
        quiet: print nothing; only useful with --out.
    """
    path = None if out is None else prepare(out, model, data)
    with warned(not quiet):
        made = LanguageModel.load(model).evaluate(data)
    if not quiet:
        print(f"perplexity {made['perplexity']:.4g}  bits per character {made['bits per character']:.4g}")
        print(f"{made['lines']} lines of {data}, {made['tokens']} tokens with their ends")
    if path is not None:
        path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        if not quiet:
            print(f"wrote {path}")

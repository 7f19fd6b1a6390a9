"""The command line: verbs, and one table of applications. Each application brings its verbs in `apps/NAME/cli.py`.

Nothing heavy is imported before a verb runs. Exit codes: 0 done, 1 a failure of ours, 2 wrong use or bad input,
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

import longshort

APPS = {
    "forecast": "Forecast time series: several quantiles of the next steps of every series in a table.",
    "speech": "Recognise speech: train on recordings with their texts.",
    "translate": "Translate text: train on sentences with their translations.",
    "language": "Help a speech recogniser with a language model: train on text, one sentence per line.",
}
ROOMS = {name: f"longshort.apps.{name}.cli" for name in APPS} | {"language": "longshort.apps.speech.language_cli"}
VERBS = {
    "predict": "Use a model: forecast what follows the data, write down what is said in recordings, or translate text.",
    "eval": "Score a model where the truth is known: forecasts beside a baseline, error rates of words, BLEU, perplexity.",
    "inspect": "Look into a model while it answers: gates, memory, gradient flow, and what each answer depends on, as one page.",
    "update": "Forecasting: train a model further on newer data.",
    "anomalies": "Forecasting: flag the newest values of the data that the model, knowing what came before, hardly expected.",
    "align": "Speech: find when each word of a known text is said in a recording.",
    "listen": "Speech: write down what a microphone hears, while it hears it.",
    "backtranslate": "Translation: make sentence pairs of text in the target language alone, to train on beside real ones.",
    "score": "Translation: say how likely given translations are.",
}
FUNCTIONS = {"eval": "evaluate"}  # where a verb has another name in Python
MORE = "The flags depend on what the model is of: `longshort {} MODEL --help` lists them."

EXAMPLES = """Examples:
```
longshort train forecast --data sales.csv --horizon 28 --out sales.safetensors
longshort eval sales.safetensors --data sales.csv --report sales.html
longshort predict sales.safetensors --data sales.csv --out next.csv
longshort inspect sales.safetensors sales.csv --out inspect.html
longshort update sales.safetensors --data newer.csv --out newer.safetensors

longshort train speech --train train.jsonl --valid valid.jsonl --out speech.safetensors
longshort eval speech.safetensors --data test.jsonl
longshort predict speech.safetensors a.wav b.flac
longshort predict speech.safetensors talk.mp3 --format srt --out talk.srt
longshort align speech.safetensors a.wav --text "what is said in it"
longshort listen speech.safetensors

longshort train translate --src train.en --tgt train.de --valid-src valid.en --valid-tgt valid.de --out en-de.safetensors
longshort predict en-de.safetensors < in.txt > out.txt
longshort eval en-de.safetensors --src test.en --tgt test.de
longshort inspect en-de.safetensors "A sentence." --out inspect.html
longshort backtranslate de-en.safetensors more.de --out made.tsv

longshort train language --text corpus.txt --valid valid.txt --recognizer speech.safetensors --out language.safetensors
longshort eval language.safetensors --data test.txt

longshort bench memory --quick
```
"""

app = App(
    name="longshort",
    version=f"longshort {longshort.__version__}",
    help="The LSTM, finished: train models, judge them, use them.",
    help_epilogue=EXAMPLES,
    suppress_keyboard_interrupt=False,
)
train = App(name="train", help="Train a model on your data and write it as one file.")
search = App(
    name="search", help="Try settings, by what they reach on a held-out part of your data, and train with the best ones."
)
crossval = App(name="crossval", help="Judge settings: train on the past of your data and score on what came, several times over.")
bench = App(name="bench", help="Measure what an LSTM can do, beside others.")
bench.command(
    "longshort.memory.cli:memory", name="memory", help="What can a recurrent net remember? The experiments of 1997 and after."
)
for made in (train, search, crossval, bench):
    app.command(made)
for made in (train, search, crossval):
    for name, doc in APPS.items():
        if made is train or name == "forecast":
            made.command(f"{ROOMS[name]}:{made.name[0]}", name=name, help=doc if made is train else None)

WRONG, FAILED = (CycloptsError, ValueError, OSError), (FloatingPointError, ImportError)  # exit codes 2 and 1


def _verb(verb: str) -> Callable[..., Any]:
    def of_model(*tokens: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]) -> Any:
        if not tokens:
            raise ValueError(f"MODEL is missing: longshort {verb} MODEL ... (--help says more)")
        if tokens[0] in ("-h", "--help"):
            return app[verb].help_print(())
        if tokens[0].startswith("-"):
            raise ValueError(f"MODEL comes first: longshort {verb} MODEL {' '.join(tokens[:2])} ...")
        from longshort.artefact import read

        name = read(tokens[0]).app
        room, function = import_module(ROOMS[name]), FUNCTIONS.get(verb, verb)
        if not hasattr(room, function):
            has = ", ".join(v for v in VERBS if hasattr(room, FUNCTIONS.get(v, v)))
            raise ValueError(f"{tokens[0]} is a model of {name}, which has no {verb}; it has {has}.")
        of_app = App(name=f"longshort {verb}", default_command=getattr(room, function), suppress_keyboard_interrupt=False,
                     version_flags=())  # fmt: skip
        return of_app(tokens, result_action="return_value", print_error=False, exit_on_error=False)

    return of_model


for verb, doc in VERBS.items():
    usage = f"Usage: longshort {verb} MODEL [FLAGS]"
    app.command(App(name=verb, help=f"{doc}\n\n{MORE.format(verb)}", help_epilogue=EXAMPLES, usage=usage, help_flags=(),
                    version_flags=(), default_command=_verb(verb)))  # fmt: skip


def main(tokens: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code. LONGSHORT_TRACEBACK=1 shows where an error comes from."""
    sys.exit(run(tokens))


def run(tokens: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    try:
        try:
            app(tokens, result_action="return_value", print_error=False, exit_on_error=False)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone (`| head`): nothing more to say, not even while Python shuts down
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as e:
        print(str(e) or "stopped", file=sys.stderr)
        return 128 + getattr(e, "signum", 2)
    except (*WRONG, *FAILED) as e:  # anything else is a bug of ours: show where
        if os.environ.get("LONGSHORT_TRACEBACK"):
            raise
        print(_said(e), file=sys.stderr)
        return 2 if isinstance(e, WRONG) else 1
    return 0


def _said(e: Exception) -> str:
    while isinstance(e, ImportError) and isinstance(e.__cause__, ImportError) and "pip install" not in str(e):
        e = e.__cause__  # cyclopts names the module that it could not import, not why
    said = str(e) or type(e).__name__
    if isinstance(e, OSError) and e.strerror:
        said = f"{e.filename}: {e.strerror}" if e.filename else e.strerror
    return f"error: {said}"

"""The verbs of speech recognition on the command line; `longshort.cli` finds them here by name."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from longshort.apps.speech.audio import AudioError
from longshort.apps.speech.config import Config
from longshort.apps.speech.recognizer import CELL as PLAIN
from longshort.apps.speech.recognizer import DEFAULT, Recognizer
from longshort.apps.speech.stream import Endpoint
from longshort.apps.speech.transcript import FORMATS, SINGLE, Transcript
from longshort.artefact import prepare
from longshort.cell import Cell
from longshort.train import Training, chief, resume_path

MANY: dict[str, Any] = {"negative_iterable": "", "consume_multiple": 1}
WHAT = Parameter(name="*", **MANY, group=Group("What to recognise, and with how large a network", sort_key=1))
HOW = Parameter(name="*", **MANY, group=Group("How to train", sort_key=2))
CELL = Parameter(**MANY, group=Group("Variant of the LSTM", sort_key=3))
Flag = Annotated[bool, Parameter(negative="")]
Several = Annotated[tuple[str, ...], Parameter(consume_multiple=1, negative="", show_default=False)]
HOTWORD = 4.0  # score of a hotword without one


def train(
    *,
    train_data: Annotated[Path, Parameter(name="--train")],
    valid: Path | None = None,
    out: Path = Path("model.safetensors"),
    start: Path | None = None,
    resume: Flag = False,
    quiet: Flag = False,
    log: Path | None = None,
    config: Annotated[Config, WHAT] = Config(),  # noqa: B008
    cell: Annotated[Cell, CELL] = PLAIN,
    training: Annotated[Training, HOW] = DEFAULT,
) -> None:
    """Train a recogniser on recordings with their texts.

    The state of the run is saved beside OUT, every minute and on Ctrl-C, and deleted when OUT is written.

    Args:
        train_data: manifest, a JSON object per line: {"audio_filepath": ..., "text": ...}; or a Kaldi folder, or lhotse cuts.
        valid: likewise, other recordings: tells which weights are best, how sure words are, and how much an n-gram helps.
        out: file for the model.
        start: a model whose weights are taken where they fit, and its units: to train further, or a transducer from a CTC model.
        resume: go on with a run that was stopped or killed; repeat its other flags.
        quiet: print nothing.
        log: file for one JSON line per score.
    """
    prepare(out)
    state, talks = resume_path(out), chief() and not quiet
    if resume and talks and not state.exists():
        print(f"there is no {state} to go on with: starting at the beginning", file=sys.stderr)
    made = Recognizer(config=config, training=training, cell=cell)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        made.fit(train_data, valid, start=start, progress=talks, checkpoint=state, resume=resume, log=log)
    if chief():
        made.save(out)
        state.unlink(missing_ok=True)
    if talks:
        for w in said:
            print(w.message, file=sys.stderr)
        for score in made.scores:
            print("  ".join(f"{k} {'-' if v is None else f'{v:.4g}'}" for k, v in score.metrics.items()))
        print(f"wrote {' and '.join(map(str, [out, *([log] if log else [])]))}")


def predict(
    model: Path, /, *audio: Path, out: Path | None = None, format: Literal["text", "json", "srt", "vtt", "ctm"] = "text",
    beam: int | None = None, alternatives: int = 1, ngram: str | None = None, ngram_weight: float | None = None,
    word_bonus: float | None = None, hotwords: Several = (), endpoint: Flag = False, picture: Path | None = None,
    quiet: Flag = False,
) -> None:  # fmt: skip
    """Write down what is said in recordings. One that cannot be heard is named on standard error, and the others go on.

    Args:
        model: a file that `longshort train speech` wrote.
        audio: WAV, FLAC, Ogg or MP3 files.
        out: file for the answer; without it the answer goes to standard output.
        format: text; json with words, times and confidences, a line per recording; srt or vtt subtitles; ctm as NIST writes it.
        beam: hypotheses that are kept; 0 takes the best token at each step.
        alternatives: how many texts per recording json holds.
        ngram: ARPA file with an n-gram model of words, or 'own' for the one that was learned with train --ngram.
        ngram_weight: of the n-gram's log-probabilities.
        word_bonus: added for each word.
        hotwords: phrases that are expected; 'phrase:6' gives one a score of 6 instead of 4.
        endpoint: cut long recordings where nobody speaks (streaming models).
        picture: folder for one PNG per recording: spectrogram, what the network says, words over time.
        quiet: say nothing but the answer.
    """
    if not audio:
        raise ValueError(f"name the recordings: longshort predict {model} a.wav b.flac")
    if format in SINGLE and len(audio) > 1:
        raise ValueError(f"{format} holds one recording, got {len(audio)}. Call it once for each, or take json.")
    path = None if out is None else prepare(out)
    if picture is not None:
        picture.mkdir(parents=True, exist_ok=True)
    recognizer, failed = Recognizer.load(model), []
    how: dict[str, Any] = {
        "beam": beam, "alternatives": alternatives, "ngram": ngram, "ngram_weight": ngram_weight, "word_bonus": word_bonus,
        "hotwords": dict(map(_hotword, hotwords)), "endpoint": Endpoint() if endpoint else None,
    }  # fmt: skip

    def heard() -> Iterator[Transcript]:
        for name in audio:
            try:
                made = recognizer.transcribe(name, **how)
            except AudioError as e:
                failed.append(e)
                print(f"error: {e}", file=sys.stderr)
                continue
            if picture is not None:
                from longshort.apps.speech.plot import utterance

                utterance(recognizer, name, made).savefig(picture / f"{name.stem}.png")
            yield made

    pieces = FORMATS[format](heard())
    if path is None:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    else:
        text = "".join(pieces)
        path.write_text(text, encoding="utf-8")
        if not quiet:
            print(f"wrote {path}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(audio)} recordings could not be heard.")


def evaluate(
    model: Path, /, *, data: Path, out: Path | None = None, beam: int | None = None, ngram: str | None = None,
    ngram_weight: float | None = None, word_bonus: float | None = None, hotwords: Several = (), quiet: Flag = False,
) -> None:  # fmt: skip
    """Score a recogniser on recordings whose texts are known: word and character error rate, confusions, worst recordings.

    Args:
        model: a file that `longshort train speech` wrote.
        data: manifest, Kaldi folder or lhotse cuts.
        out: file for scores, confusions and worst recordings as JSON.
        beam: hypotheses that are kept; 0 takes the best token at each step.
        ngram: ARPA file with an n-gram model of words, or 'own' for the one that was learned with train --ngram.
        ngram_weight: of the n-gram's log-probabilities.
        word_bonus: added for each word.
        hotwords: phrases that are expected; 'phrase:6' gives one a score of 6 instead of 4.
        quiet: print nothing; only useful with --out.
    """
    path = None if out is None else prepare(out)
    made = Recognizer.load(model).evaluate(data, beam=beam, ngram=ngram, ngram_weight=ngram_weight, word_bonus=word_bonus,
                                           hotwords=dict(map(_hotword, hotwords)))  # fmt: skip
    if path is not None:
        path.write_text(json.dumps(made.json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if quiet:
        return
    show(made.json(), made.scores(), data)
    if path is not None:
        print(f"wrote {path}")


def show(made: dict[str, Any], scores: dict[str, float], data: Path) -> None:
    """Print an evaluation."""
    from rich.console import Console
    from rich.table import Table

    console, e = Console(), made["errors"]
    for name in ("WER", "CER"):
        low, high = scores[f"{name}-lo-95"], scores[f"{name}-hi-95"]
        console.print(f"{name} {scores[name]:.2f} %  (95 % interval {low:.2f} to {high:.2f})", highlight=False)
    console.print(
        f"{made['utterances']} recordings, {made['words']} words in {data}: {e['substitutions']} substituted, {e['deletions']} "
        f"deleted, {e['insertions']} inserted; real-time factor {scores['real-time factor']:.4f}; confidences are off by "
        f"{scores['ECE']:.1f} % on average", highlight=False,
    )  # fmt: skip
    for d in made["dropped"]:
        console.print(f"left out: {d['detail']}", highlight=False)
    if made["confusions"]:
        table = Table(title="most frequent errors", title_justify="left")
        for name in ("said", "heard", "times"):
            table.add_column(name, justify="right" if name == "times" else "left")
        for row in made["confusions"][:10]:
            table.add_row(row["said"] or "-", row["heard"] or "-", str(row["count"]))
        console.print(table)
        table = Table(title="worst recordings", title_justify="left")
        for name in ("recording", "said", "heard"):
            table.add_column(name)
        for row in made["worst"][:5]:
            table.add_row(row["id"], row["said"], row["heard"])
        console.print(table)


def align(
    model: Path, audio: Path, /, *, text: str, out: Path | None = None, format: Literal["json", "srt", "vtt", "ctm"] = "json"
) -> None:
    """Find when each word of a known text is said in a recording.

    Args:
        model: a file that `longshort train speech` wrote.
        audio: the recording.
        text: what is said in it.
        out: file for the answer; without it the answer goes to standard output.
        format: json, srt or vtt subtitles, ctm.
    """
    path = None if out is None else prepare(out)
    said = "".join(FORMATS[format]([Recognizer.load(model).align(audio, text)]))
    if path is None:
        sys.stdout.write(said)
    else:
        path.write_text(said, encoding="utf-8")


def _hotword(said: str) -> tuple[str, float]:
    phrase, colon, score = said.rpartition(":")
    if not colon:
        return said, HOTWORD
    try:
        return phrase, float(score)
    except ValueError:
        raise ValueError(f"a hotword must be 'phrase' or 'phrase:score', got {said!r}.") from None

"""The verbs of speech recognition on the command line; `longshort.cli` finds them here by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from longshort.apps.speech import audio as sound
from longshort.apps.speech.config import Config
from longshort.apps.speech.decoding import Decoding
from longshort.apps.speech.recognizer import BROUGHT, CELL, DEFAULT, Recognizer
from longshort.apps.speech.stream import Endpoint
from longshort.apps.speech.transcript import FORMATS, SINGLE, Transcript
from longshort.artefact import prepare
from longshort.cell import Cell
from longshort.flags import HOW, MANY, SHOWN, VARIANT, Flag, as_asked, begun, ended, flags, over, warned, writable
from longshort.probe import Shown
from longshort.scripts import save
from longshort.train import Training, resume_path

WHAT = Parameter(name="*", **MANY, group=Group("What to recognise, and with how large a network", sort_key=1))
Several = Annotated[tuple[str, ...], Parameter(consume_multiple=1, negative="", show_default=False)]
HOTWORD = 4.0  # score of a hotword without one
Format = Literal["text", "json", "srt", "vtt", "ctm"]
Times = Literal["json", "srt", "vtt", "ctm"]


if TYPE_CHECKING:
    ConfigFlags = Config
    CellFlags = Cell
    HowFlags = Training
else:
    ConfigFlags, CellFlags, HowFlags = flags(Config()), flags(CELL), flags(DEFAULT, {"steps": None})


@dataclass(frozen=True)
class Search:
    """How tokens are chosen.

    Args:
        beam: hypotheses that are kept; 0 takes the best token at each step. Without it 0, or 8 with a
            language model, hotwords or alternatives.
        ngram: ARPA file with an n-gram model of words, or 'own' for the one that was learned with train --ngram.
        ngram_weight: of the n-gram's log-probabilities; without it what was best for the model's own n-gram on the validation
            recordings, or 0.5 where it has none.
        word_bonus: added for each word; without it likewise, or 1.0.
        language: LSTM language model, a file that `longshort train language` wrote for this recogniser.
        language_weight: of its log-probabilities.
        hotwords: phrases that are expected; 'phrase:6' gives one a score of 6 instead of 4.
    """

    beam: int | None = None
    ngram: str | None = None
    ngram_weight: float | None = None
    word_bonus: float | None = None
    language: str | None = None
    language_weight: float = Decoding.language_weight
    hotwords: Several = ()

    def how(self) -> dict[str, Any]:
        """Fields of `Decoding`."""
        return asdict(self) | {"hotwords": dict(map(_hotword, self.hotwords))}

    def files(self) -> list[Path]:
        """Those that are read."""
        return [Path(name) for name in (self.ngram, self.language) if name not in (None, "own")]


CHOOSE = Parameter(name="*", group=Group("How tokens are chosen", sort_key=1))
GREEDY = Search()


def train(
    *,
    train_data: Annotated[Path, Parameter(name="--train")],
    valid: Path | None = None,
    out: Path = Path("model.safetensors"),
    start: Path | None = None,
    aligner: Path | None = None,
    resume: Flag = False,
    quiet: Flag = False,
    log: Path | None = None,
    shown: Annotated[Shown, SHOWN] = Shown(),  # noqa: B008
    config: Annotated[ConfigFlags, WHAT] = ConfigFlags(),  # noqa: B008
    cell: Annotated[CellFlags, VARIANT] = CellFlags(),  # noqa: B008
    training: Annotated[HowFlags, HOW] = HowFlags(),  # noqa: B008
) -> None:
    """Train a recogniser on recordings with their texts.

    The state of the run is saved beside OUT, every minute and on Ctrl-C, and deleted when OUT is written.

    Args:
        train_data: manifest, a JSON object per line: {"audio_filepath": ..., "text": ...}; or a Kaldi folder, or lhotse cuts.
        valid: likewise, other recordings: tells which weights are best, how sure words are, and how much an n-gram helps.
        out: file for the model.
        start: a model to start from, to train it further or to make a transducer of a CTC model. Its weights are taken where they
            fit, its units, and its settings where no flag says otherwise.
        aligner: a model that was trained on the same recordings and finds the pauses in them, so that utterances can be spliced
            (see --splice); one with --no-streaming is best at it.
        resume: go on with a run that was stopped or killed; repeat its other flags.
        quiet: print nothing.
        log: file for one JSON line per score.
    """
    writable((train_data, valid, aligner), out, log, shown.preview)
    more = shown.ready()
    state = resume_path(out)
    first = Recognizer() if start is None else Recognizer.load(start)
    made = Recognizer(config=over(first.config, config), training=as_asked(training, DEFAULT), cell=over(first.cell, cell))
    if start is not None and (alone := [k for k in BROUGHT if getattr(made.config, k) != getattr(first.config, k)]):
        raise ValueError(f"--start brings its units, which --{alone[0]} cannot change. Leave one of them out.")
    talks = begun([state], resume, quiet)
    with warned(talks):
        made.fit(train_data, valid, start=start and first, aligner=aligner, progress=talks, checkpoint=state, resume=resume,
                 log=log, **more)  # fmt: skip
    ended(made, out, [state], talks, log, shown.tensorboard)


def predict(
    model: Path, /, *audio: Path, out: Path | None = None, format: Format = "text", alternatives: int = 1,
    endpoint: Flag = False, picture: Path | None = None, quiet: Flag = False, search: Annotated[Search, CHOOSE] = GREEDY,
) -> None:  # fmt: skip
    """Write down what is said in recordings. One that cannot be heard is named on standard error, and the others go on.

    Args:
        model: a file that `longshort train speech` wrote.
        audio: WAV, FLAC, Ogg or MP3 files.
        out: file for the answer; without it the answer goes to standard output.
        format: text; json with words, times and confidences, a line per recording; srt or vtt subtitles; ctm as NIST writes it.
        alternatives: how many texts per recording json holds.
        endpoint: cut long recordings where nobody speaks (streaming models).
        picture: folder for one PNG per recording: spectrogram, what the network says, words over time.
        quiet: say nothing but the answer.
    """
    if not audio:
        raise ValueError(f"name the recordings: longshort predict {model} a.wav b.flac")
    if format in SINGLE and len(audio) > 1:
        raise ValueError(f"{format} holds one recording, got {len(audio)}. Call it once for each, or take json.")
    if alternatives > 1 and format != "json":
        raise ValueError(f"{format} has room for one text, got --alternatives {alternatives}. Take --format json, too.")
    path = None if out is None else prepare(out, model, *audio, *search.files())
    if picture is not None:
        picture.mkdir(parents=True, exist_ok=True)
    recognizer, heard, failed, drawn = Recognizer.load(model), list[Path](), 0, set[str]()
    how = search.how() | {"alternatives": alternatives, "endpoint": Endpoint() if endpoint else None}

    def sounds() -> Iterator[Any]:
        nonlocal failed
        for name in audio:
            try:
                made = sound.read(name, recognizer.config.rate)
            except sound.AudioError as e:
                failed += 1
                print(f"error: {e}", file=sys.stderr)
                continue
            heard.append(name)
            yield made

    def transcripts() -> Iterator[Transcript]:
        for k, made in enumerate(recognizer.each(sounds(), recognizer.config.rate, **how)):
            if picture is not None:
                from longshort.apps.speech.plot import utterance

                names = (f"{heard[k].stem}{f'-{again}' if again else ''}.png" for again in count())
                name = next(name for name in names if name not in drawn)
                drawn.add(name)
                save(utterance(recognizer, heard[k], made), picture / name)
            yield replace(made, name=str(heard[k]))

    _write(FORMATS[format](transcripts()), path, quiet)
    if failed:
        raise ValueError(f"{failed} of {len(audio)} recordings could not be heard.")


def inspect(
    model: Path, audio: Path, /, *, start: float = 0.0, seconds: float = 30.0, out: Path | None = None, serve: Flag = False,
    port: int = 0, quiet: Flag = False,
) -> None:  # fmt: skip
    """Look into a recogniser while it listens: which moments of the sound each word was heard by, what gates and cells do, how
    far gradients flow. Prints what to know and writes a page.

    Args:
        model: a file that `longshort train speech` wrote.
        audio: the recording.
        start: where in it to begin, in seconds.
        seconds: how much of it to look at.
        out: file for the page, .html; without it inspect.html, or none with --serve.
        serve: serve the page on this machine until Ctrl-C, and look again whenever the file of the model changes.
        port: where to serve it; 0 takes a free one.
        quiet: print nothing but where the page is served.
    """
    from longshort.apps.speech.inspect import subject
    from longshort.inspection import inspect as look
    from longshort.inspection import present

    def make() -> Any:
        return look(subject(Recognizer.load(model), audio, start=start, seconds=seconds, name=str(audio)))

    present(make, model, out=out, serve=serve, port=port, quiet=quiet)


def evaluate(
    model: Path, /, *, data: Path, out: Path | None = None, quiet: Flag = False, search: Annotated[Search, CHOOSE] = GREEDY
) -> None:
    """Score a recogniser on recordings whose texts are known: word and character error rate, confusions, worst recordings.

    Args:
        model: a file that `longshort train speech` wrote.
        data: manifest, Kaldi folder or lhotse cuts.
        out: file for scores, confusions and worst recordings as JSON.
        quiet: print nothing; only useful with --out.
    """
    path = None if out is None else prepare(out, model, data, *search.files())
    made = Recognizer.load(model).evaluate(data, **search.how())
    told = made.json()
    if not quiet:
        show(told, made.scores(), data)
    if path is not None:
        _write([json.dumps(told, indent=2, ensure_ascii=False) + "\n"], path, quiet)


def show(made: dict[str, Any], scores: dict[str, float], data: Path) -> None:
    """Print an evaluation."""
    from rich.console import Console
    from rich.table import Table

    console, e = Console(markup=False, emoji=False), made["errors"]  # texts and paths may hold brackets
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
    model: Path, audio: Path, /, *, text: str, out: Path | None = None, format: Times = "json", quiet: Flag = False
) -> None:
    """Find when each word of a known text is said in a recording.

    Args:
        model: a file that `longshort train speech` wrote, of kind ctc or joint.
        audio: the recording.
        text: what is said in it.
        out: file for the answer; without it the answer goes to standard output.
        format: json, srt or vtt subtitles, ctm.
        quiet: say nothing but the answer.
    """
    path = None if out is None else prepare(out, model, audio)
    _write(FORMATS[format]([Recognizer.load(model).align(audio, text)]), path, quiet)


def listen(
    model: Path, /, *, stdin: Flag = False, rate: int | None = None, device: str | None = None, silence: float = 1.0,
    format: Format = "text", quiet: Flag = False, search: Annotated[Search, CHOOSE] = GREEDY,
) -> None:  # fmt: skip
    """Write down what is said while it is said, until Ctrl-C or the end of what is piped in.

    On a terminal, the last line shows what has been heard since the last pause, and may still change. What is printed is final.

    Args:
        model: a streaming model, a file that `longshort train speech` wrote.
        stdin: hear standard input instead of the microphone: raw 16-bit samples, one channel, least significant byte first.
        rate: samples per second that come in; without it those that the microphone likes or, with --stdin, those of the model.
        device: which microphone, by number or part of its name; `python -m sounddevice` lists them.
        silence: seconds without a word after which an utterance is over.
        format: text, a line per utterance; json, an object per line; srt or vtt subtitles; ctm.
        quiet: show nothing but what is final.
    """
    from longshort.apps.speech.listen import Interrupt, Line, listen, microphone, piped

    if stdin and device is not None:
        raise ValueError("--device names a microphone, --stdin takes none. Give one of them.")
    recognizer = Recognizer.load(model)
    stream = recognizer.stream(endpoint=Endpoint(silence=silence, pause=min(Endpoint.pause, silence)), **search.how())
    source = piped(sys.stdin.buffer, rate or recognizer.config.rate) if stdin else microphone(device, rate)
    with source as opened, Interrupt() as interrupt:
        line = Line(sys.stderr, quiet)
        if not stdin:
            line.show("listening; Ctrl-C ends it")
        _write(FORMATS[format](listen(stream, opened, line, interrupt)), None, quiet)


def _write(pieces: Iterable[str], path: Path | None, quiet: bool) -> None:
    """Pieces of text as they come, to a file or to standard output."""
    if path is not None:
        path.write_text("".join(pieces), encoding="utf-8")
        if not quiet:
            print(f"wrote {path}")
        return
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()


def _hotword(said: str) -> tuple[str, float]:
    phrase, colon, score = said.rpartition(":")
    if not colon:
        return said, HOTWORD
    if phrase[-1:].isdigit() and score.isdigit() and len(score) == 2:  # 10:30
        raise ValueError(
            f"{said!r} may be a phrase or a phrase with a score. Write '{said}:{HOTWORD:g}', or '{phrase}:{score}.0'."
        )
    try:
        return phrase, float(score)
    except ValueError:
        raise ValueError(f"a hotword must be 'phrase' or 'phrase:score', got {said!r}.") from None

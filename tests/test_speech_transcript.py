"""How transcripts are written down: nothing is lost, times go forward, lines can be read."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from rich.cells import cell_len

from longshort.apps.speech import transcript
from longshort.apps.speech.transcript import (
    FORMATS,
    LINE,
    PAUSE,
    READ,
    SHOWN,
    SINGLE,
    Alternative,
    Token,
    Transcript,
    Word,
    subtitles,
)

LETTERS = list("abcdefghijklmnopqrstuvwxyzäßéжλ漢&<>'\"-.,0123456789")


def spoken(seed: int, n: int, longest: int = 14) -> Transcript:
    """Words at random, which follow each other more or less closely."""
    rng, words, now = np.random.default_rng(seed), [], 0.0
    for _ in range(n):
        start = now + rng.choice([0.0, 0.04, 0.3, 2.0], p=[0.3, 0.4, 0.25, 0.05])
        now = start + rng.integers(1, 25) * 0.04
        text = "".join(rng.choice(LETTERS, rng.integers(1, longest + 1)))
        words.append(Word(text, start, now, float(rng.random())))
    return Transcript(" ".join(w.text for w in words), tuple(words), -1.0 / 3, now + 1, name=f"a {seed}.wav")


MANY = [spoken(seed, n) for seed, n in enumerate([0, 1, 2, 3, 10, 63, 100, 500, 500, 500])]


def written(kind: str, *made: Transcript) -> str:
    return "".join(FORMATS[kind](made))


def seconds(clock: str) -> float:
    h, m, s = re.fullmatch(r"(\d\d):(\d\d):(\d\d[.,]\d{3})", clock).groups()
    return 3600 * int(h) + 60 * int(m) + float(s.replace(",", "."))


# subtitles


def lines(texts: list[str]) -> str | None:
    return transcript._lines([transcript._Part(t, 0.0, 0.0, " ") for t in texts])


@pytest.mark.parametrize("made", MANY, ids=lambda t: str(len(t.words)))
def test_subtitles_can_be_read(made: Transcript) -> None:
    pieces, left = list(subtitles(made.words)), list(made.words)
    assert " ".join(said.replace("\n", " ") for *_, said in pieces) == made.text, "nothing is lost, nothing is said twice"
    for k, (start, end, said) in enumerate(pieces):
        own = [left.pop(0) for _ in said.split()]
        assert len(said.split("\n")) <= 2
        assert max(map(len, said.split("\n"))) <= LINE
        assert start == own[0].start < end
        assert all(b.start - a.end <= PAUSE for a, b in pairwise(own))
        assert own[-1].end - start <= SHOWN or len(own) == 1
        after = pieces[k + 1][0] if left else np.inf
        assert end == min(max(own[-1].end, start + READ), after), "it stands while it is said, and long enough to be read"
        if left:  # the next word had no place here
            assert (left[0].start - own[-1].end > PAUSE or left[0].end - start > SHOWN
                    or lines([*said.split(), left[0].text]) is None)  # fmt: skip


def test_two_lines_are_as_even_as_can_be() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        texts = ["x" * n for n in rng.integers(1, 20, rng.integers(1, 9))]
        whole, made = " ".join(texts), lines(texts)
        ways = [max(len(" ".join(texts[:k])), len(" ".join(texts[k:]))) for k in range(1, len(texts))]
        if len(whole) <= LINE:
            assert made == whole
        elif min(ways, default=99) > LINE:
            assert made is None
        else:
            assert made.replace("\n", " ") == whole
            assert max(map(len, made.split("\n"))) == min(ways)


def test_a_word_that_is_longer_than_a_line_stands_alone() -> None:
    words = [Word("so", 0, 0.2, 1.0), Word("x" * 60, 0.2, 0.4, 1.0), Word("it", 0.4, 0.6, 1.0)]
    assert [said for *_, said in subtitles(words)] == ["so", "x" * 60, "it"]


@pytest.mark.parametrize(
    "letters",
    [
        "猫が好きです。「まあ」、トーストとカード",
        "สวัสดีครับผมชื่อสมชาย",
        "你好、今天天气很好。",
        "日本語ABC12のT",
        "กน้ำเก่าไม่",
        "しょっちゅう",
    ],
)
def test_what_has_no_spaces_is_cut_between_characters(letters: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        long = "".join(rng.choice([*letters], int(rng.integers(1, 200))))
        words = [Word(long, 1.0, 1.0 + float(rng.uniform(0.1, 60)), 1.0), Word("so", 70.0, 70.5, 1.0)]
        pieces = list(subtitles(words))
        assert "".join(said.replace("\n", "") for *_, said in pieces) == long + "so", "nothing is lost, nothing is said twice"
        assert pieces[0][0] == 1.0
        assert all(a[0] < a[1] <= b[0] for a, b in pairwise(pieces))
        whole = [line for *_, said in pieces for line in said.split("\n")]
        for line in whole:
            assert cell_len(line) <= LINE
        for line in whole[1:-1]:
            assert not unicodedata.category(line[0]).startswith(("M", "Pe", "Pf", "Po")), "what follows a character stays with it"
            assert line[0] not in "ー" + transcript.HOLDS
        for line in whole[:-2]:
            assert line[-1] not in transcript.HELD


def test_short_ones_stay_as_they_are() -> None:
    words = [Word("猫が好き", 0.0, 1.0, 1.0), Word("です", 1.1, 1.5, 1.0), Word("ok", 1.6, 1.8, 1.0)]
    assert [said for *_, said in subtitles(words)] == ["猫が好き です ok"]
    long = Word("あ" * 42, 0.0, 5.0, 1.0)
    assert [said for *_, said in subtitles([long])] == ["あ" * 21 + "\n" + "あ" * 21], "wide ones take two columns"


def test_characters_that_are_words_have_their_own_times() -> None:
    """Of a script without spaces: nothing between them, pauses where they are, and no line begins with what stays."""
    text, words = "", list[Word]()
    for k, c in enumerate("猫が好き。" * 12):
        words.append(Word(c, k + 3.0 * (k >= 30), k + 0.5 + 3.0 * (k >= 30), 1.0))
        text += c
    made = Transcript(text, tuple(words), 0.0, 70.0)
    shown = [line for line in "".join(transcript.srt([made])).split("\n\n") if line]
    assert "".join("".join(one.split("\n")[2:]) for one in shown) == text
    assert not any(line.startswith("。") for one in shown for line in one.split("\n"))
    begins = [one.split("\n")[1].split(" --> ") for one in shown]
    assert not any(a < "00:00:31,000" < "00:00:32,000" < b for a, b in begins), "no text stands over the pause"


def test_words_of_one_step_do_not_overlap() -> None:
    """A transducer may write several words at once."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        steps = np.sort(rng.integers(0, 30, 60)) * 0.04
        words = [Word("x" * int(rng.integers(5, 40)), float(s), float(s) + 0.04, 1.0) for s in steps]
        before, pieces = 0.0, list(subtitles(words))
        for start, end, _ in pieces:
            assert before <= start < end
            before = end
        assert " ".join(said for *_, said in pieces).split() == [w.text for w in words]


# files


@pytest.mark.parametrize("kind", SINGLE)
def test_subtitles_of_utterances_do_not_overlap(kind: str) -> None:
    words = [Word(f"w{k}", 0.5 * k, 0.5 * k + 0.2, 1.0) for k in range(6)]
    each = [Transcript(w.text, (w,), 0.0, 3.0) for w in words]
    times = [tuple(map(seconds, t)) for t in re.findall(r"(\S+) --> (\S+)", "".join(FORMATS[kind](each)))]
    assert len(times) == 6
    assert all(a < b for a, b in times)
    assert all(before[1] <= after[0] for before, after in pairwise(times))


@pytest.mark.parametrize("made", MANY, ids=lambda t: str(len(t.words)))
@pytest.mark.parametrize("kind", SINGLE)
def test_subtitle_files(made: Transcript, kind: str) -> None:
    blocks = written(kind, made).split("\n\n")
    assert blocks.pop() == "", "the last one ends with an empty line, too"
    if kind == "vtt":
        assert blocks.pop(0) == "WEBVTT"
    pieces, before = list(subtitles(made.words)), 0.0
    assert len(blocks) == len(pieces)
    for k, (block, (start, end, said)) in enumerate(zip(blocks, pieces, strict=True), 1):
        lines = block.split("\n")
        if kind == "srt":
            assert lines.pop(0) == str(k)
        first, last = lines.pop(0).split(" --> ")
        assert ("," in first, "." in first) == (kind == "srt", kind == "vtt")
        assert (seconds(first), seconds(last)) == (pytest.approx(start, abs=6e-4), pytest.approx(end, abs=6e-4))
        assert before <= seconds(first) < seconds(last)
        before = seconds(last)
        text = "\n".join(lines)
        assert (html.unescape(text) if kind == "vtt" else text) == said
        assert kind == "srt" or not re.search(r"[<>]|&(?!amp;|lt;|gt;)", text)


@pytest.mark.parametrize(
    ("time", "said"),
    [(0, "00:00:00.000"), (0.0004, "00:00:00.000"), (59.9996, "00:01:00.000"), (3599.9999, "01:00:00.000"),
     (7325.25, "02:02:05.250"), (360_000, "100:00:00.000")],
)  # fmt: skip
def test_clocks(time: float, said: str) -> None:
    assert transcript._clock(time, ".") == said
    assert transcript._clock(time, ",") == said.replace(".", ",")


def test_ctm_is_a_table_of_six_columns() -> None:
    rows = [line.split(" ") for line in written("ctm", *MANY).splitlines()]
    words = [(t, w) for t in MANY for w in t.words]
    assert len(rows) == len(words)
    for (name, channel, start, lasts, text, confidence), (made, word) in zip(rows, words, strict=True):
        assert (name, channel, text) == (made.name.replace(" ", "_"), "1", word.text)
        assert (float(start), float(lasts)) == (
            pytest.approx(word.start, abs=6e-3),
            pytest.approx(word.end - word.start, abs=6e-3),
        )
        assert float(confidence) == pytest.approx(word.confidence, abs=6e-4)
    for made in MANY:
        starts = [float(line.split(" ")[2]) for line in written("ctm", made).splitlines()]
        assert starts == sorted(starts)
    assert written("ctm", Transcript("a", (Word("a", 0, 1, 1.0),), 0, 1)).startswith("- 1 0.00 1.00 a ")


def test_json_holds_all_of_it() -> None:
    lines = written("json", *MANY).splitlines()
    for line, made in zip(lines, MANY, strict=True):
        held = json.loads(line)
        assert list(held) == ["text", "words", "score", "duration", "name", "tokens"]
        assert (held["text"], held["name"]) == (made.text, made.name)
        for one, word in zip(held["words"], made.words, strict=True):
            assert one == {
                "text": word.text,
                **{k: pytest.approx(getattr(word, k), abs=6e-4) for k in ("start", "end", "confidence")},
            }
        assert held["score"] == pytest.approx(made.score, abs=6e-4)
    assert "漢" in "".join(lines), "letters stay letters"
    one = Transcript("a", (), -0.12345, 1.0, (Alternative("b", -2.34567),), tokens=(Token(" a", 0.123456, -0.98765),))
    assert json.loads(written("json", one))["tokens"] == [{"text": " a", "start": 0.123, "logp": -0.988}]
    assert json.loads(written("json", one))["alternatives"] == [{"text": "b", "score": -2.346}]


def test_text_is_one_line_for_each() -> None:
    assert written("text", *MANY) == "".join(f"{t.name}\t{t.text}\n" for t in MANY)
    assert written("text", Transcript("as it is", (), 0, 1)) == "as it is\n"


def test_pieces_come_as_soon_as_they_can() -> None:
    """Each format gives out what is done before it asks for the next transcript."""
    for kind, make in FORMATS.items():
        asked = []

        def source(asked: list[int] = asked):
            for k, one in enumerate(MANY[4:6]):
                asked.append(k)
                yield one

        pieces = make(source())
        for piece in pieces:
            if MANY[4].words[0].text in html.unescape(piece):
                break
        assert asked == [0], kind

"""Splicing: what is cut at pauses and joined in another order is still what was said."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import soundfile as sf

from longshort.apps.speech.config import Config
from longshort.apps.speech.data import Utterance
from longshort.apps.speech.splice import Phrases, phrases
from longshort.apps.speech.task import SpeechTask

LOUD, SILENT = 0.0, -12.0


def spelled(
    words: list[tuple[str, int]], pauses: list[int], bins: int = 8
) -> tuple[np.ndarray, list[str], list[tuple[int, int]]]:
    """Features in which word n holds its number, silence between; the words, and where an aligner writes each."""
    rows, spans, t = [], [], 0
    for (_, n), pause in zip(words, [*pauses, 0], strict=True):
        rows += [np.full((n, bins), LOUD, np.float32), np.full((pause, bins), SILENT, np.float32)]
        spans.append((t + n // 3, t + n // 2))
        t += n + pause
    return np.concatenate(rows), [w for w, _ in words], spans


@pytest.mark.parametrize("seed", range(20))
def test_cuts_lie_in_pauses_and_lose_nothing(seed):
    rng = np.random.default_rng(seed)
    words = [(f"w{k}", int(rng.integers(20, 60))) for k in range(rng.integers(2, 9))]
    pauses = [int(p) for p in rng.choice([0, 12, 30], len(words) - 1)]
    pauses[0] = pauses[0] or 12  # one at least
    x, text, spans = spelled(words, pauses)
    x += rng.normal(0, 0.1, x.shape).astype(np.float32)
    found = phrases(3, x, text, spans)
    assert sum((p.words for p in found), ()) == tuple(text)
    assert [p.utterance for p in found] == [3] * len(found)
    assert len(found) == 1 + sum(p > 0 for p in pauses)
    assert (found[0].first, found[-1].last) == (0, len(x))
    for a, b in itertools.pairwise(found):
        assert a.last == b.first
        assert x[a.last].max() < SILENT + 2


def test_an_utterance_without_pauses_is_one_phrase():
    x, text, spans = spelled([("a", 40), ("b", 40), ("c", 40)], [0, 0])
    x[:5] = SILENT
    assert [(p.first, p.last, p.words) for p in phrases(0, x, text, spans)] == [(0, 120, ("a", "b", "c"))]


def test_phrases_of_a_speaker_fill_the_room_and_no_more():
    rng = np.random.default_rng(0)
    found = []
    for k in range(6):
        x, text, spans = spelled([(f"{k}a", 30), (f"{k}b", 50), (f"{k}c", 20)], [20, 20])
        found += phrases(k, x, text, spans)
    features = [np.full((140, 8), k, np.float32) for k in range(6)]
    made = Phrases(found, ["x", "x", "y", "x", "y", "y"])
    for speaker, own in (("x", {0, 1, 3}), ("y", {2, 4, 5})):
        for _ in range(50):
            room, speed = int(rng.integers(60, 400)), float(rng.choice([0.9, 1.0, 1.1]))
            parts, words = made.draw(speaker, room, lambda k, s=speed: features[k][: int(140 / s)], speed, rng)
            assert sum(map(len, parts)) <= room
            assert {int(w[0]) for w in words} <= own
            assert len(parts) == len(words)
            assert [int(p[0, 0]) for p in parts] == [int(w[0]) for w in words]
    assert made.draw("x", 10, lambda k: features[k], 1.0, rng) == ([], [])
    assert made.draw("nobody", 500, lambda k: features[k], 1.0, rng) == ([], [])


@pytest.fixture(scope="module")
def beeps(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Each letter is a tone of its own, a quarter of a second long, with a pause of as much after it."""
    rng, folder, made = np.random.default_rng(5), tmp_path_factory.mktemp("beeps"), []
    for k in range(12):
        text = " ".join(rng.choice(list("abcd"), rng.integers(2, 6)))
        t = np.arange(4000) / 16_000
        tone = {c: np.sin(2 * np.pi * f * t) for c, f in zip("abcd", (300, 700, 1500, 3000), strict=True)}
        x = np.concatenate([v for c in text.split() for v in (tone[c] / 2, np.zeros(4000))]) + rng.normal(
            0, 1e-4, 8000 * len(text.split())
        )
        sf.write(folder / f"{k}.wav", x, 16_000)
        made.append(Utterance(str(k), folder / f"{k}.wav", text, len(x) / 16_000, speaker="ab"[k % 2]))
    return made


def exactly(u: Utterance) -> list[tuple[float, float]]:
    """An aligner that knows."""
    return [(0.5 * k + 0.1, 0.5 * k + 0.2) for k in range(len(u.text.split()))]


CONFIG = Config(
    hidden=8, layers=1, seconds=30, longest=10, warp=0, tempo=0, gain=0, freq_masks=0, time_masks=0, speeds=(1.0,), splice=1.0
)


def test_what_is_spliced_is_still_what_is_heard(beeps):
    task = SpeechTask(CONFIG, beeps, aligner=exactly)
    loudest = [
        int(task.recipe.filterbank(np.sin(2 * np.pi * f * np.arange(4000) / 16_000) / 2)[12].argmax())
        for f in (300, 700, 1500, 3000)
    ]
    texts = {tuple(t) for t in task.texts}
    new = 0
    for k in range(len(beeps)):
        for seed in range(5):
            x, tokens = task.said(k, 1.0, 1.0, np.random.default_rng(seed))
            assert len(x) <= len(task.store.plain(k))
            loud = x[x.max(1) > -2]
            heard = "".join("abcd"[np.abs(np.array(loudest) - row.argmax()).argmin()] for row in loud)
            text = task.recipe.units.decode(tokens).replace(" ", "")
            assert [c for c, _ in groupby(heard)] == [c for c, _ in groupby(text)]

            assert all(22 <= n / text.count(c) <= 28 for c, n in Counter(heard).items())
            new += tuple(tokens) not in texts
    assert new > 20


def test_batches_repeat_themselves_and_the_share_counts(beeps):
    task = SpeechTask(CONFIG, beeps, aligner=exactly)
    plain = SpeechTask(CONFIG, beeps)
    for epoch in (0, 20):
        for a, b in zip(task.batches("train", 7, epoch), task.batches("train", 7, epoch), strict=True):
            assert (a.features == b.features).all()
            assert (a.targets == b.targets).all()
    assert task.data() != plain.data()
    never = SpeechTask(replace(CONFIG, splice=0.0), beeps, aligner=exactly)
    assert all(never.said(k, 1.0, 1.0, np.random.default_rng(0))[1] == never.texts[k] for k in range(len(beeps)))


def test_tempo_keeps_room_for_the_text(beeps):
    task = SpeechTask(replace(CONFIG, tempo=0.5), beeps, aligner=exactly)
    slow, fast = ([len(task.said(k, 1.0, f, np.random.default_rng(0))[0]) for k in range(len(beeps))] for f in (0.5, 1.5))
    assert all(1.8 * a < b for a, b in zip(fast, slow, strict=True))
    for seed in range(3):
        for batch in task.batches("train", seed):
            assert ((batch.frames + 3) // 4 - batch.lead >= batch.lengths).all()


def test_what_cannot_be_aligned_is_a_phrase_as_a_whole(beeps):
    def fails(u: Utterance) -> list[tuple[float, float]]:
        raise ValueError("too long a text")

    task = SpeechTask(CONFIG, beeps, aligner=fails)
    assert task.phrases is not None
    assert [" ".join(p.words) for p in task.phrases.found] == [u.text for u in beeps]

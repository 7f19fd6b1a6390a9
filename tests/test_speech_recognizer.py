"""A recogniser from recordings to text, on digits that espeak-ng says: the laws that hold whatever it has learned."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

import longshort
from longshort.apps.speech import Endpoint, Recognizer, audio, data, metrics
from longshort.apps.speech.audio import AudioError
from longshort.apps.speech.config import Config
from longshort.apps.speech.data import Utterance
from longshort.apps.speech.evaluation import Evaluation
from longshort.apps.speech.ngram import NGram
from longshort.apps.speech.stream import advance
from longshort.apps.speech.task import Judge, Recipe, SpeechTask
from longshort.apps.speech.transcript import Transcript, Word
from longshort.cell import Cell
from longshort.train import Training
from spoken import DIGITS, corpus

SMALL = {"hidden": 96, "layers": 2, "channels": 8, "dropout": 0.1, "seconds": 30.0, "longest": 10.0, "curriculum": 8,
         "time_masks": 0.3, "freq_masks": 1}  # fmt: skip
FAST = Training(steps=1000, lr=5e-3, warmup=0.1, evaluate=250, patience=0, average=0.98)
BRIEF = replace(FAST, steps=3, evaluate=3)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return corpus(tmp_path_factory.mktemp("digits"), {"train": 400, "valid": 40, "test": 60})


@pytest.fixture(scope="module")
def learned(spoken: dict[str, Path], one_thread: None) -> Recognizer:
    """Trained in about half a minute."""
    return Recognizer(training=FAST, ngram=2, **SMALL).fit(spoken["train"], spoken["valid"])


def brief(spoken: dict[str, Path], **fields) -> Recognizer:
    """Hardly trained at all, and without recordings to judge it by."""
    return Recognizer(training=BRIEF, **SMALL | fields).fit(data.read(spoken["train"])[:60])


def sound(spoken: dict[str, Path], k: int = 0) -> np.ndarray:
    return sf.read(data.read(spoken["test"])[k].audio, dtype="float32")[0]


# it learns


def test_digits_in_voices_it_has_never_heard(learned: Recognizer, spoken: dict[str, Path]) -> None:
    made = learned.evaluate(spoken["test"])
    assert made.words.rate < 0.05
    with_ngram = learned.evaluate(spoken["test"], ngram="own")
    assert with_ngram.words.rate < 0.03
    assert made.scores()["real-time factor"] < 0.1
    assert made.calibration_error < 0.1
    assert with_ngram.calibration_error < 0.1
    assert set(" ".join(t.text for t in with_ngram.transcripts).split()) <= set(DIGITS)


def test_the_same_seed_gives_the_same_bytes(spoken: dict[str, Path], tmp_path: Path) -> None:
    files = [brief(spoken).save(tmp_path / f"{k}.safetensors").read_bytes() for k in range(2)]
    assert files[0] == files[1]


def test_a_model_is_one_file(learned: Recognizer, spoken: dict[str, Path], tmp_path: Path) -> None:
    path = learned.save(tmp_path / "m.safetensors")
    for again in (longshort.load(path), Recognizer.load(path)):
        assert again.config == learned.config
        for how in ({}, {"ngram": "own"}):
            one, two = again.transcribe(sound(spoken), 16_000, **how), learned.transcribe(sound(spoken), 16_000, **how)
            assert (one.text, one.score) == (two.text, pytest.approx(two.score, abs=1e-4))
        assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


# streams


def heard(learned: Recognizer, x: np.ndarray, cuts: Iterator[int] | list[int], rate: int = 16_000, **how):
    stream = learned.stream(**how)
    before = 0
    for cut in [*cuts, len(x)]:
        stream.accept(x[before:cut], rate)
        before = max(cut, before)
        assert isinstance(stream.text, str)
    return stream.finish()


@pytest.mark.parametrize("how", [{}, {"beam": 4}, {"ngram": "own"}, {"hotwords": {"nine": 3.0}}], ids=str)
@pytest.mark.parametrize("ms", [10, 40, 160, 1000, None])
def test_chunks_do_not_matter(learned: Recognizer, spoken: dict[str, Path], ms: int | None, how: dict) -> None:
    rng = np.random.default_rng(0)
    for k in range(4):
        x = sound(spoken, k)
        whole = learned.transcribe(x, 16_000, **how)
        cuts = list(range(16 * ms, len(x), 16 * ms)) if ms else sorted(rng.integers(0, len(x), 7).tolist())
        made = heard(learned, x, cuts, **how)
        assert made.text == whole.text
        assert [(w.text, w.start, w.end) for w in made.words] == [(w.text, w.start, w.end) for w in whole.words]
        assert made.score == pytest.approx(whole.score, abs=1e-2)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_chunks_do_not_matter_at_other_rates(learned: Recognizer, spoken: dict[str, Path], rate: int) -> None:
    x = audio.mono(sound(spoken), 16_000, rate)
    whole = learned.transcribe(x, rate)
    assert heard(learned, x, list(range(rate // 20, len(x), rate // 20)), rate).text == whole.text


def test_a_stream_clips_what_is_too_loud_as_a_whole_file_does(learned: Recognizer, spoken: dict[str, Path]) -> None:
    x = audio.mono(sound(spoken), 16_000, 44_100)
    x = x * np.float32(3.5 / np.abs(x).max())  # floats up to audio.LOUDEST are heard
    stream = learned.stream()
    stream.feed(x, 44_100)
    np.testing.assert_allclose(stream._pending, learned.features(x, 44_100)[: len(stream._pending)], atol=1e-2)
    whole, made = learned.transcribe(x, 44_100), heard(learned, x, list(range(2205, len(x), 2205)), 44_100)
    assert (made.text, made.score) == (whole.text, pytest.approx(whole.score, abs=1e-2))


@pytest.mark.parametrize("how", [{}, {"beam": 4}, {"ngram": "own"}], ids=str)
def test_where_no_sound_comes_nothing_is_heard(learned: Recognizer, how: dict) -> None:
    for pieces in ([], [np.zeros(0, np.float32)] * 2):
        stream = learned.stream(**how)
        for x in pieces:
            stream.accept(x, 16_000)
        made = stream.finish()
        assert (made.text, made.words, made.duration) == ("", (), 0.0)
        assert stream.finish() == made


def test_tokens_make_the_text_and_have_their_times(learned: Recognizer, spoken: dict[str, Path]) -> None:
    u = data.read(spoken["test"])[0]
    for made in (learned.transcribe(sound(spoken), 16_000), learned.transcribe(u, beam=4), learned.align(u, u.text)):
        assert "".join(t.text for t in made.tokens).strip() == made.text
        starts = [t.start for t in made.tokens]
        assert starts == sorted(starts)
        assert {w.start for w in made.words} <= set(starts)
        assert all(0 <= t.start < made.duration and t.logp <= 0 for t in made.tokens)
        assert [t["text"] for t in made.json()["tokens"]] == [t.text for t in made.tokens]


def test_a_stream_without_a_rate_hears_at_that_of_the_model(learned: Recognizer, spoken: dict[str, Path]) -> None:
    stream = learned.stream()
    stream.accept(sound(spoken))
    assert stream.finish() == heard(learned, sound(spoken), [])


def test_hotwords_are_written_as_the_texts_are(learned: Recognizer, spoken: dict[str, Path]) -> None:
    folding = copy.copy(learned)
    folding.config = replace(learned.config, fold=True)
    x = sound(spoken)
    one, two = folding.transcribe(x, 16_000, hotwords={"Nine": 3.0}), learned.transcribe(x, 16_000, hotwords={"nine": 3.0})
    assert one == two
    with pytest.raises(ValueError, match="hotword 'Nine' holds 'N'"):
        learned.transcribe(x, 16_000, hotwords={"Nine": 3.0})
    spelled = learned._decoding({"hotwords": {"e\u0301  a": 1.0, "\u00e9 a": 2.0}}).hotwords  # by two keys or by one
    assert spelled == {"\u00e9 a": 3.0}


def test_the_last_word_is_not_lost(learned: Recognizer, spoken: dict[str, Path]) -> None:
    """Sound that ends with the word, no silence after it: finish() hears it all the same."""
    for k in range(6):
        x, said = sound(spoken, k), data.read(spoken["test"])[k].text.split()
        loud = np.flatnonzero(np.abs(x) > 0.02)[-1]
        made = heard(learned, x[: loud + 800], list(range(1600, loud, 1600)))
        assert len(made.text.split()) == len(said)


def test_many_streams_at_once(learned: Recognizer, spoken: dict[str, Path]) -> None:
    xs = [sound(spoken, k) for k in range(7)]
    alone = [learned.transcribe(x, 16_000).text for x in xs]
    streams = [learned.stream() for _ in xs]
    for at in range(0, max(map(len, xs)), 2560):
        live = [(s, x[at : at + 2560]) for s, x in zip(streams, xs, strict=True) if at < len(x)]
        for s, piece in live:
            s.feed(piece)
        advance([s for s, _ in live])
    assert [s.finish().text for s in streams] == alone
    assert [
        t.text for t in learned.transcribe([Utterance("a", u.audio, "", u.duration) for u in data.read(spoken["test"])[:7]])
    ] == alone


def test_endpoints_cut_where_nobody_speaks(learned: Recognizer, spoken: dict[str, Path]) -> None:
    pieces = [sound(spoken, k) for k in range(3)]
    quiet = (np.random.default_rng(0).normal(size=32_000) * 1e-3).astype(np.float32)
    x = np.concatenate([v for p in pieces for v in (p, quiet)])
    rule = Endpoint(silence=0.8)
    whole = learned.stream(endpoint=rule)
    whole.accept(x)
    told = whole.finish()
    assert told.text == whole.text == " ".join(t.text for t in whole.finished)
    assert told.duration == pytest.approx(len(x) / 16_000, abs=0.05)
    assert [t.text for t in whole.finished if t.text] == [learned.transcribe(p, 16_000).text for p in pieces]
    starts = [t.words[0].start for t in whole.finished if t.words]
    begins = np.cumsum([0, *(len(p) + len(quiet) for p in pieces[:-1])]) / 16_000
    assert np.abs(np.array(starts) - begins).max() < 0.5
    for step in (160, 2560, 16_000):
        other = learned.stream(endpoint=rule)
        for at in range(0, len(x), step):
            other.accept(x[at : at + step])
        other.finish()
        assert [t.text for t in other.finished] == [t.text for t in whole.finished]


def test_a_hotword_is_a_word_of_the_ngram(learned: Recognizer, spoken: dict[str, Path]) -> None:
    """Names are what hotwords are for, and what an n-gram has not seen."""
    told = [u for u in data.read(spoken["test"]) if "nine" in u.text.split()][:20]
    ngram = NGram.fit([[w for w in u.text.split() if w != "nine"] for u in data.read(spoken["train"])], 2)
    want = sum(u.text.split().count("nine") for u in told)
    plain, hot = (sum(learned.transcribe(u, ngram=ngram, **how).text.split().count("nine") for u in told)
                  for how in ({}, {"hotwords": {"nine": 4.0}}))  # fmt: skip
    assert plain < 0.5 * want < 0.9 * want <= hot <= want


@pytest.mark.parametrize("rule", [Endpoint(), Endpoint(empty=0.2)], ids=str)
def test_no_word_is_lost_where_an_utterance_ends(learned: Recognizer, spoken: dict[str, Path], rule: Endpoint) -> None:
    """Wherever a rule cuts: the word that has begun there is heard from its beginning."""
    told, rng = data.read(spoken["test"])[:15], np.random.default_rng(0)
    wrong = [0, 0]
    for gap in (0.1, 0.3, 0.5):  # and what is quiet at the ends of the recordings
        quiet = (rng.normal(size=round(16_000 * gap)) * 1e-3).astype(np.float32)
        x = np.concatenate([v for k in range(len(told)) for v in (sound(spoken, k), quiet)])
        want = " ".join(u.text for u in told)
        for k, made in enumerate((learned.transcribe(x, 16_000), learned.transcribe(x, 16_000, endpoint=rule))):
            wrong[k] += int(metrics.word_score([want], [made.text]).counts[0, 1:].sum())
            assert " ".join("".join(t.text for t in made.tokens).split()) == made.text
    whole, cut = (w / (3 * sum(len(u.text.split()) for u in told)) for w in wrong)
    assert cut < 0.15, (whole, cut)  # 0.2 where the next utterance does not hear the last steps again


@pytest.mark.parametrize("quiet", [10_000, 13_000, 16_000, 20_000])
def test_an_endpoint_in_the_silence_at_the_end_adds_no_time(learned: Recognizer, spoken: dict[str, Path], quiet: int) -> None:
    x = np.concatenate([sound(spoken, 0), np.zeros(quiet, np.float32)])
    stream = learned.stream(endpoint=Endpoint(silence=0.8))
    stream.accept(x)
    assert stream.finish().duration == pytest.approx(len(x) / 16_000, abs=0.05)


@pytest.mark.parametrize("silence", [0.12, 0.16, 0.2, 0.3])
def test_an_endpoint_behind_the_recording_adds_no_time(learned: Recognizer, silence: float, monkeypatch) -> None:
    """A word in the last steps of two seconds, and a rule that ends it in the silence that follows every recording."""
    word = learned.units.encode("one")
    at = dict(zip((45, 46, 47), word, strict=True))
    step = itertools.count()

    def said(encoded: torch.Tensor) -> np.ndarray:
        made = np.full((*encoded.shape[:2], len(learned.units)), -20.0, np.float32)
        for row in made[0]:
            row[at.get(next(step), 0)] = 0
        return made

    monkeypatch.setattr(learned.fitted, "said", said)
    stream = learned.stream(endpoint=Endpoint(silence=silence, pause=0.1))
    stream.accept(np.random.default_rng(0).normal(size=50 * 640) * 0.1, 16_000)
    whole = stream.finish()
    for made in (whole, *stream.finished):
        assert made.duration <= 2.0
        assert all(0 <= w.start < w.end <= 2.0 for w in made.words)
    assert [w.text for w in whole.words] == ["one"]


def test_the_share_of_blanks_is_that_of_steps(learned: Recognizer, spoken: dict[str, Path]) -> None:
    """Not of tokens: a letter that is held is one, and a transducer may write many in a step."""
    for model in ("ctc", "transducer"):
        recipe = Recipe(replace(learned.config, model=model), learned.cell, learned.units)
        network, judge = recipe.network().eval(), Judge(recipe, data.read(spoken["test"])[:3])
        last = network.head if model == "ctc" else network.write
        with torch.no_grad():
            last.weight.zero_()
            for token, share in ((0, 1.0), (2, 0.0)):
                last.bias.copy_(5.0 * (torch.arange(len(learned.units)) == token))
                assert judge.texts(network)[1] == share


def test_an_ngram_without_validation_texts_is_left_as_it_is(spoken: dict[str, Path]) -> None:
    blank = replace(data.read(spoken["test"])[0], text="")
    made = Recognizer(ngram=2, training=BRIEF, **SMALL).fit(spoken["train"], [blank])
    assert made._reader.ngram is not None
    assert (made._reader.ngram_weight, made._reader.word_bonus) == (0.5, 1.0)


def test_nothing_cannot_be_aligned(learned: Recognizer) -> None:
    with pytest.raises(ValueError, match="there is no sound to find the text in"):
        learned.align(np.zeros(0), "one", 16_000)


def test_a_stream_that_is_over_takes_no_more(learned: Recognizer) -> None:
    stream = learned.stream()
    stream.accept(np.zeros(1600, np.int16), 16_000)
    with pytest.raises(ValueError, match="all samples of a stream must have one rate, got 8000 after 16000"):
        stream.accept(np.zeros(800, np.int16), 8_000)
    assert stream.finish() == stream.finish()
    with pytest.raises(ValueError, match="this stream is finished"):
        stream.accept(np.zeros(1600, np.float32))


def test_a_stream_does_not_grow(learned: Recognizer, spoken: dict[str, Path]) -> None:
    """What it holds after a minute is what it held after some seconds, but for the text."""
    x = np.concatenate([sound(spoken, k) for k in range(20)])
    stream, sizes = learned.stream(endpoint=Endpoint()), []
    for at in range(0, len(x), 16_000):
        stream.accept(x[at : at + 16_000])
        held = [v for v in vars(stream).values() if isinstance(v, np.ndarray)] + list(stream._state)
        sizes.append(sum(v.nbytes for v in held) + stream._features._held.nbytes)
    assert max(sizes) < 40_000
    assert sizes[-1] <= max(sizes[:5]) + 4000


# alignment, words, confidence


def test_alignment_finds_words_where_transcripts_do(learned: Recognizer, spoken: dict[str, Path]) -> None:
    for k in range(5):
        x = sound(spoken, k)
        made = learned.transcribe(x, 16_000)
        aligned = learned.align(x, made.text, 16_000)
        assert [w.text for w in aligned.words] == made.text.split()
        for a, b in zip(aligned.words, made.words, strict=True):
            assert abs(a.start - b.start) <= 0.12
            assert 0 <= a.start < a.end <= len(x) / 16_000 + 0.04
    with pytest.raises(ValueError, match="need at least"):
        learned.align(x[:4000], "nine " * 40, 16_000)


def test_alternatives_are_other_texts(learned: Recognizer, spoken: dict[str, Path]) -> None:
    for u in data.read(spoken["test"])[:10]:
        for made in (learned.transcribe(u, beam=30, alternatives=8), learned.transcribe(u, hotwords=None, alternatives=8)):
            texts = [made.text, *(a.text for a in made.alternatives)]
            assert len(texts) == len(set(texts)) <= 8
            assert [a.score for a in made.alternatives] == sorted((a.score for a in made.alternatives), reverse=True)
        assert learned.align(u, made.text).name == u.id


def test_wrong_words_are_less_sure(learned: Recognizer, spoken: dict[str, Path]) -> None:
    """In noise, where it errs often."""
    rng, right, wrong = np.random.default_rng(0), [], []
    for u in data.read(spoken["test"]):
        x = sf.read(u.audio, dtype="float32")[0]
        made = learned.transcribe(np.clip(x + 0.01 * rng.normal(size=len(x)).astype(np.float32), -1, 1), 16_000)
        for a, b in metrics.edits(u.text.split(), [w.text for w in made.words]).pairs:
            if b is not None:
                (right if a == b else wrong).append(next(w.confidence for w in made.words if w.text == b))
    assert len(wrong) > 10
    assert np.mean(np.array(right)[:, None] > np.array(wrong)) > 0.6


# what is given, what is refused


def test_sounds_of_all_kinds(learned: Recognizer, spoken: dict[str, Path], tmp_path: Path) -> None:
    x = sound(spoken)
    for name, kind in (("a.wav", "PCM_16"), ("ä b.flac", "PCM_24"), ("c.ogg", "VORBIS"), ("d.mp3", "MPEG_LAYER_III")):
        sf.write(tmp_path / name, np.stack([x, x], 1), 16_000, subtype=kind)
        made = learned.transcribe(tmp_path / name)
        assert metrics.wer([learned.transcribe(x, 16_000).text], [made.text]) <= 0.34
        assert made.name.endswith(name)
    assert learned.transcribe((x * 32767).astype(np.int16), 16_000).text == learned.transcribe(x, 16_000).text
    with pytest.raises(ValueError, match=re.escape("samples need their rate: transcribe(samples, rate=16000).")):
        learned.transcribe(x)
    with pytest.raises(AudioError, match=r"nowhere\.wav: there is no such file"):
        learned.transcribe("nowhere.wav")


def test_bidirectional_hears_whole_files_only(spoken: dict[str, Path]) -> None:
    made = brief(spoken, streaming=False)
    xs = [sound(spoken, k) for k in range(4)]
    assert len(made.transcribe([u.audio for u in data.read(spoken["test"])[:4]])) == 4
    assert made.transcribe(xs[0], 16_000).duration == pytest.approx(len(xs[0]) / 16_000, abs=0.05)
    with pytest.raises(ValueError, match="hears in both directions, so it needs whole recordings"):
        made.stream()


def test_what_is_left_out_is_said(spoken: dict[str, Path], tmp_path: Path) -> None:
    good = data.read(spoken["train"])[:30]
    sf.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    (tmp_path / "broken.flac").write_bytes(b"fLaC no more")
    (tmp_path / "m.jsonl").write_text('{"id": "torn", "audio_filepath": "broken.flac", "text": "one"}\n')
    (torn,) = data.read(tmp_path / "m.jsonl")  # nobody says how long it is
    bad = [Utterance("mute", tmp_path / "silent.wav", "one", 1.0), torn,
           replace(good[0], id="empty", text=" "), replace(good[0], id="much", text="nine " * 60)]  # fmt: skip
    with pytest.warns(UserWarning, match="Left out") as said:
        made = Recognizer(training=BRIEF, **SMALL).fit([*good, *bad], [])
    assert {d.utterance.id for d in made.dropped} == {"mute", "torn", "empty", "much"}
    told = next(str(w.message) for w in said if "Left out" in str(w.message))
    for word in ("mute", "torn", "without text", "more text than there is time for", "cannot be heard", "is silent"):
        assert word in told
    with pytest.raises(ValueError, match=r"there is nothing to learn from\. Left out: "):
        Recognizer(training=BRIEF, **SMALL).fit(bad[:2], [])


def test_a_network_that_writes_nothing_says_so(spoken: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match="the network writes nothing: .* % of its steps are blank"):
        Recognizer(training=replace(FAST, steps=60, evaluate=60), **SMALL).fit(
            data.read(spoken["train"])[:60], data.read(spoken["valid"])[:5]
        )


def test_characters_that_were_never_seen(spoken: dict[str, Path]) -> None:
    made = brief(spoken)
    with pytest.raises(ValueError, match=r"'Q' \(U\+0051\).*not among the characters of the training text"):
        made.align(sound(spoken), "Q", 16_000)


@pytest.mark.parametrize("fields", [{"model": "transducer"}, {"model": "joint", "predictor": "lstm"}, {"front": "stack"},
                                    {"units": "bpe", "pieces": 40}, {"rate": 8000}, {"noise": "synthetic", "reverb": "synthetic"},
                                    {"weight_drop": 0.2}], ids=str)  # fmt: skip
def test_every_kind_of_model_trains_saves_and_streams(spoken: dict[str, Path], tmp_path: Path, fields: dict) -> None:
    made = brief(spoken, **fields)
    again = Recognizer.load(made.save(tmp_path / "m.safetensors"))
    x = sound(spoken)
    for how in ({}, {"beam": 3, "alternatives": 2}):
        whole = made.transcribe(x, 16_000, **how)
        assert again.transcribe(x, 16_000, **how) == whole
        assert heard(made, x, list(range(1000, len(x), 1000)), **how).text == whole.text


def test_a_transducer_starts_from_a_ctc_encoder(learned: Recognizer, spoken: dict[str, Path]) -> None:
    made = Recognizer(training=replace(BRIEF, lr=1e-8), model="joint", **SMALL).fit(
        data.read(spoken["train"])[:40], start=learned
    )
    for name, v in learned.fitted.state_dict().items():
        torch.testing.assert_close(made.fitted.state_dict()[name], v, atol=1e-4, rtol=0)
    assert made.units == learned.units


def test_an_aligner_lets_utterances_be_spliced(learned: Recognizer, spoken: dict[str, Path], tmp_path: Path) -> None:
    learned.save(tmp_path / "aligner.safetensors")
    some, plain = data.read(spoken["train"])[:60], brief(spoken)
    for aligner in (learned, tmp_path / "aligner.safetensors"):
        made = Recognizer(training=BRIEF, **SMALL).fit(some, aligner=aligner)
        weights = [m.fitted.lstm.weight_hh_l0 for m in (made, plain)]
        assert not torch.equal(*weights)
    with pytest.raises(ValueError, match="these texts have no spaces there"):
        Recognizer(training=BRIEF, **SMALL).fit([replace(u, text=u.text.split()[0]) for u in some], aligner=learned)
    with pytest.raises(ValueError, match="aligner must have a CTC part"):
        Recognizer(training=BRIEF, **SMALL).fit(some, aligner=brief(spoken, model="transducer"))


def test_a_start_that_does_not_fit_is_said(learned: Recognizer, spoken: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match="the model to start from has an LSTM of other sizes"):
        Recognizer(training=BRIEF, **SMALL | {"hidden": 24}).fit(data.read(spoken["train"])[:40], start=learned)


def test_a_filter_that_hears_nothing_stays_quiet(spoken: dict[str, Path], tmp_path: Path) -> None:
    some = []
    for u in data.read(spoken["train"])[:8]:  # telephones: nothing above 4 kHz
        sf.write(tmp_path / f"{u.id}.wav", audio.read(u.audio, 8000), 8000)
        some.append(Utterance(u.id, tmp_path / f"{u.id}.wav", u.text, u.duration))
    task = SpeechTask(Config(**SMALL), some)
    mean, scale = task.store.moments
    assert scale.max() <= 1
    x = task.batches("train", 0)[0].features.flatten(0, 1).numpy()
    assert np.abs((x - mean) * scale).max() < 20


def test_a_file_that_is_shorter_than_it_was_said_to_be(spoken: dict[str, Path]) -> None:
    some = [replace(u, duration=u.duration + 0.09) for u in data.read(spoken["train"])[:8]]
    told, there = (SpeechTask(Config(**SMALL), us).seconds for us in (some, data.read(spoken["train"])[:8]))
    assert np.abs(told - there).max() < 0.02


def test_wrong_fields_are_named() -> None:
    with pytest.raises(TypeError, match="Recognizer has no field hiden; it has model, streaming"):
        Recognizer(hiden=3)
    for fields, said in (({"model": "hmm"}, "model must be one of ctc, transducer, joint"), ({"dropout": 1.0}, "dropout must be in"),
                         ({"speeds": ()}, "speeds must be one or more factors"), ({"seconds": 5.0}, "must hold the longest utterance"),
                         ({"freq_width": 99}, "freq_width must be at most bins = 80"), ({"snr": (9, 3)}, "snr must be two ratios")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Recognizer(**fields)
    for fields, said in (
        ({"fold": 1}, "fold must be True or False, got 1"),
        ({"streaming": 0}, "streaming must be True or False"),
    ):
        with pytest.raises(TypeError, match=said):
            Recognizer(**fields)
    for fields in ({"seconds": float("inf")}, {"snr": (5.0, float("inf"))}):
        with pytest.raises(ValueError, match=f"{next(iter(fields))} must be"):
            Recognizer(**fields)
    assert Recognizer(noise=Path("noise")).config.noise == "noise", "as the file of the model holds it"
    with pytest.raises(RuntimeError, match="nothing is fitted yet"):
        Recognizer().transcribe("a.wav")


@pytest.mark.filterwarnings("ignore:the network has hardly learned")
def test_a_preview_makes_its_folder(spoken: dict[str, Path], tmp_path: Path) -> None:
    some = data.read(spoken["train"])
    Recognizer(training=BRIEF, **SMALL).fit(some[:20], some[20:22], preview=tmp_path / "live" / "m.safetensors")
    assert Recognizer.load(tmp_path / "live" / "m.safetensors").units


def test_confidences_are_judged_by_the_words_that_transcripts_have() -> None:
    """Of scripts without spaces these are characters, in the truth as well."""
    truth, heard = "猫が好き", tuple(Word(c, k, k + 0.5, 1.0) for k, c in enumerate("猫が鳴き"))
    made = Transcript("猫が鳴き", heard, 0.0, 4.0)
    scores = metrics.word_score([truth], [made.text]), metrics.character_score([truth], [made.text])
    judged = Evaluation((), (truth,), (tuple(truth),), (made,), *scores, (), 4.0, 1.0)
    assert judged.calibration_error == pytest.approx(0.25)


def test_evaluation_as_json(learned: Recognizer, spoken: dict[str, Path]) -> None:
    made = json.loads(json.dumps(learned.evaluate(spoken["test"]).json()))
    assert made["utterances"] == 60
    assert made["words"] == sum(len(u.text.split()) for u in data.read(spoken["test"]))
    assert made["scores"]["WER-lo-95"] <= made["scores"]["WER"] <= made["scores"]["WER-hi-95"]
    assert Cell(layer_norm=True) == learned.cell

"""What training hears: each way to change a recording, alone; and the scale that all features get."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile as sf

from longshort.apps.speech import augment
from longshort.apps.speech.config import LEAD, SUBSAMPLING, TAIL, Config
from longshort.apps.speech.data import Utterance
from longshort.apps.speech.task import FRAME, SpeechTask

OFF = {"speeds": (1.0,), "tempo": 0.0, "warp": 0.0, "gain": 0.0, "freq_masks": 0, "time_masks": 0.0, "hidden": 8, "layers": 1}


@pytest.fixture(scope="module")
def chirps(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    rng, folder, made = np.random.default_rng(5), tmp_path_factory.mktemp("chirps"), []
    for k in range(5):
        t = np.arange(8000 + 1600 * k) / 16_000
        x = 0.3 * np.sin(2 * np.pi * (300 + 400 * k) * t * (1 + t)) + rng.normal(0, 1e-3, len(t))
        sf.write(folder / f"{k}.wav", x, 16_000)
        made.append(Utterance(str(k), folder / f"{k}.wav", "ab"[k % 2], len(t) / 16_000))
    return made


def drawn(chirps: list[Utterance], easy: bool = False, **how: object) -> tuple[SpeechTask, list[np.ndarray]]:
    """The utterances of one batch, without what comes before them."""
    task = SpeechTask(Config(**OFF | how), chirps)
    rows, n = np.arange(len(chirps)), len(chirps)
    x, frames, _, _, lead = task.draw(rows, np.zeros(n, int), np.ones(n), np.random.default_rng(7), easy)
    assert ((lead >= 0) & (lead <= LEAD)).all()
    return task, [x[k, SUBSAMPLING * lead[k] : frames[k]].numpy() for k in range(n)]


def plain(task: SpeechTask) -> list[np.ndarray]:
    return [task.store.plain(k) for k in range(len(task.train))]


def in_turn(task: SpeechTask, change) -> list[np.ndarray]:
    """What the same draws make, one utterance after another: warp, gain, masks, and then the lead."""
    rng, made = np.random.default_rng(7), []
    for x in plain(task):
        made.append(change(x, rng))
        lead = int(rng.integers(LEAD + 1))
        rng.choice(10, SUBSAMPLING * lead)
    return made


def test_without_changes_it_is_the_recording(chirps):
    task, heard = drawn(chirps)
    for got, want in zip(heard, plain(task), strict=True):
        np.testing.assert_array_equal(got, want)


def test_louder_and_softer_is_a_constant_of_each_recording(chirps):
    task, heard = drawn(chirps, gain=6.0)
    moved = [got - want for got, want in zip(heard, plain(task), strict=True)]
    db = np.array([10 / math.log(10) * v.mean() for v in moved])
    assert all(np.ptp(v) < 1e-5 for v in moved)
    assert (abs(db) <= 6).all()
    assert np.ptp(db) > 2


def test_warped_frequencies(chirps):
    def change(x, rng):
        made = task.recipe.filterbank.warp(x, rng.uniform(0.9, 1.1))
        rng.uniform(0, 0)
        return augment.spec_augment(made, rng, 0, 0, 0.0, 0.0)

    task, heard = drawn(chirps, warp=0.1)
    for got, want, before in zip(heard, in_turn(task, change), plain(task), strict=True):
        np.testing.assert_array_equal(got, want)
        assert not np.array_equal(got, before)


@pytest.mark.parametrize("easy", [True, False])
def test_masks_are_those_of_specaugment_but_in_the_easy_passes(chirps, easy):
    def change(x, rng):
        rng.uniform(0, 0)
        return x if easy else augment.spec_augment(x, rng, 3, 9, 2.0, 0.1 / FRAME)

    task, heard = drawn(chirps, easy, freq_masks=3, freq_width=9, time_masks=2.0, time_width=0.1)
    for got, want, before in zip(heard, in_turn(task, change), plain(task), strict=True):
        np.testing.assert_array_equal(got, want)
        assert np.array_equal(got, before) == easy


@pytest.mark.parametrize(("noise", "echo"), [(0, 0), (1, 0), (0, 1)])
def test_noise_and_echo_have_shares_of_their_own(chirps, noise, echo):
    wild = {"noise": "synthetic", "noise_share": noise, "snr": (20.0, 20.0), "reverb": "synthetic", "reverb_share": echo}
    task, heard = drawn(chirps, **wild)
    for got, want in zip(heard, plain(task), strict=True):
        louder = got - want
        if not noise and not echo:
            np.testing.assert_allclose(got, want, atol=1e-4)
        else:
            assert abs(louder[: -TAIL * SUBSAMPLING]).mean() > 0.05
    floor = np.mean([got[5 : -TAIL * SUBSAMPLING].min(1).mean() - want[5 : -TAIL * SUBSAMPLING].min(1).mean()
                     for got, want in zip(heard, plain(task), strict=True)])  # fmt: skip
    assert (floor > 2) == bool(noise), "noise fills the bands that the tone leaves empty"


def test_features_are_scaled_to_mean_zero_and_deviation_one(chirps):
    task = SpeechTask(Config(**OFF), chirps)
    network = task.model()
    every = np.concatenate(plain(task))
    scaled = (every - network.mean.numpy()) * network.scale.numpy()
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-3)

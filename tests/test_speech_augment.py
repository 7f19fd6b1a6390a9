"""Laws of augmentation: ratios are met, rooms decay as fast as they say, masks blank what they may, and inputs stay."""

from __future__ import annotations

import pickle
from typing import get_args

import numpy as np
import pytest
import soundfile

from longshort.apps.speech.augment import (
    Noise,
    Wild,
    _useless,
    add_noise,
    gain,
    reverberate,
    spec_augment,
    speed,
    synthetic_impulse,
    synthetic_noise,
    tempo,
)

KINDS = get_args(Noise)
SIZES = [1, 2, 63, 400, 16_001]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sound(n: int, seed: int = 0) -> np.ndarray:
    x = (0.1 * rng(seed).normal(size=n)).astype(np.float32)
    x.setflags(write=False)  # nothing here may change its input
    return x


def power(x: np.ndarray) -> float:
    return float(np.mean(x.astype(np.float64) ** 2))


def db(ratio: float) -> float:
    return 10 * np.log10(ratio)


# samples


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_speed_moves_a_tone_and_the_end(factor):
    n = 32_000
    tone = np.sin(2 * np.pi * 1000 * np.arange(n) / 16_000).astype(np.float32)
    made = speed(tone, factor)
    assert made.dtype == np.float32
    assert len(made) == pytest.approx(n / factor, abs=1)
    middle = made[len(made) // 2 - 4000 : len(made) // 2 + 4000] * np.hanning(8000)
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == pytest.approx(1000 * factor, abs=2)
    assert np.abs(made[2000:-2000]).max() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("n", SIZES)
def test_gain_is_in_decibels(n):
    x = sound(n)
    for level in (-20, -6, 0, 3.5):
        made = gain(x, level)
        assert made.dtype == np.float32
        assert db(power(made) / power(x)) == pytest.approx(level, abs=1e-4)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_is_as_faint_as_it_says(n, m, snr):
    x, noise = sound(n), 7 * sound(m, 1)
    made = add_noise(x, noise, snr)
    assert made.dtype == np.float32
    added = made.astype(np.float64) - x
    assert db(power(x) / power(added)) == pytest.approx(snr, abs=0.01)
    repeated = np.resize(noise, n)
    assert added @ repeated > 0.999 * np.linalg.norm(added) * np.linalg.norm(repeated)


def test_silence_adds_and_takes_nothing():
    x, nothing = sound(400), np.zeros(400, np.float32)
    np.testing.assert_array_equal(add_noise(x, nothing, 10), x)
    np.testing.assert_array_equal(add_noise(nothing, x, 10), nothing)
    np.testing.assert_array_equal(reverberate(nothing, x), nothing)
    np.testing.assert_array_equal(reverberate(x, nothing), x)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("m", SIZES[:-1])
def test_an_echo_is_a_convolution_that_keeps_time_and_power(n, m):
    x, impulse = sound(n), sound(m, 1)
    made = reverberate(x, impulse)
    assert (made.dtype, made.shape) == (np.float32, x.shape)
    direct = int(np.abs(impulse).argmax())
    wanted = np.convolve(x.astype(np.float64), impulse)[direct : direct + n]
    np.testing.assert_allclose(made, wanted * np.sqrt(power(x) / power(wanted)), atol=1e-5)
    assert power(made) == pytest.approx(power(x), rel=1e-4)


def test_a_click_in_front_is_no_echo():
    for late in (0, 100):
        impulse = np.zeros(500, np.float32)
        impulse[late] = 0.3
        np.testing.assert_allclose(reverberate(sound(1000), impulse), sound(1000), atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16_000])
@pytest.mark.parametrize("rt60", [0.1, 0.3, 0.8])
def test_a_synthetic_room_decays_as_fast_as_it_says(rate, rt60):
    """Schroeder's backward integral falls by 60 dB in rt60 seconds: the slope between -5 and -25 dB of the tail, mean of rooms."""
    slopes = []
    for seed in range(20):
        impulse = synthetic_impulse(rate, rt60, rng(seed))
        assert impulse.dtype == np.float32
        assert len(impulse) == round(rt60 * rate)
        assert np.abs(impulse).argmax() == 0
        left = db(np.cumsum(impulse[:0:-1].astype(np.float64) ** 2)[::-1])
        a, b = (np.flatnonzero(left < left[0] - level)[0] for level in (5, 25))
        slopes.append((b - a) / rate / 20 * 60)
        assert -0.1 < -db(power(impulse[1:]) * (len(impulse) - 1)) < 12.1
    assert np.mean(slopes) == pytest.approx(rt60, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [8000, 16_000])
def test_synthetic_noise_is_of_one_loudness_and_drawn(kind, rate):
    for n in (8000, 16_001):
        made = synthetic_noise(n, kind, rng(), rate)
        assert (made.dtype, made.shape) == (np.float32, (n,))
        assert power(made) ** 0.5 == pytest.approx(0.1, rel=1e-4)
        assert abs(made.mean()) < 1e-3
        np.testing.assert_array_equal(made, synthetic_noise(n, kind, rng(), rate))
        assert not np.array_equal(made, synthetic_noise(n, kind, rng(1), rate))
    for n in (1, 2, 63):
        assert np.isfinite(synthetic_noise(n, kind, rng(), rate)).all()


@pytest.mark.parametrize(("kind", "slope"), [("white", 0), ("pink", -1), ("brown", -2)])
def test_colours_have_their_slope(kind, slope):
    """Power per hertz in octaves from 62.5 to 4000 Hz: 3 dB less per octave is 1 / f."""
    spectrum = np.abs(np.fft.rfft(synthetic_noise(160_000, kind, rng()))) ** 2
    f = np.fft.rfftfreq(160_000, 1 / 16_000)
    octaves = [spectrum[(f >= 62.5 * 2**k) & (f < 62.5 * 2 ** (k + 1))].mean() for k in range(6)]
    assert np.polyfit(np.arange(6), np.log2(octaves), 1)[0] == pytest.approx(slope, abs=0.1)
    assert spectrum[f < 19].max() < 1e-6 * spectrum.max()


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_hum_sounds_at_the_mains_and_their_harmonics(rate):
    heard = set()
    for seed in range(9):
        spectrum = np.abs(np.fft.rfft(synthetic_noise(rate, "hum", rng(seed), rate)))
        heard.add(tuple(np.sort(np.argsort(spectrum)[-7:])))
    assert heard == {tuple(base * k for k in range(1, 8)) for base in (50, 60)}


def test_another_kind_of_noise_is_refused():
    with pytest.raises(ValueError, match="noise must be one of white, pink, brown, hum, babble, got 'loud'"):
        synthetic_noise(400, "loud", rng())


# folders of noise and rooms


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(["a.wav", "sub/b.FLAC", "sub/deep/c.ogg"]):
        path = tmp_path / "noise" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound(4000 * (k + 1) ** 2, k), 8000, format=name[-4:].strip(".").upper())
    (tmp_path / "noise" / "read me.txt").write_text("nothing to hear")
    return tmp_path / "noise"


def test_files_are_drawn_at_random_places(folder):
    wild, draw = Wild(16_000, noise=folder), rng()
    assert [p.name for p in wild.noise] == ["a.wav", "b.FLAC", "c.ogg"]
    made = [wild.piece(4000, draw) for _ in range(60)]
    assert {len(x) for x in made} == {4000}
    assert len({x.tobytes() for x in made}) == 60
    assert len(wild.piece(200, draw)) == 400  # at least what a file must hold
    assert {len(wild.piece(100_000, draw)) for _ in range(30)} == {
        8000,
        32_000,
        72_000,
    }  # a recording that is shorter comes whole


@pytest.mark.parametrize("source", ["folder", "synthetic"])
def test_shares_and_ratios_are_kept(folder, source):
    wild = Wild(16_000, noise=str(folder) if source == "folder" else source)
    draw, x, n = rng(), sound(3000), 400
    added = [wild(x, draw, 0.3, (5.0, 15.0)).astype(np.float64) - x for _ in range(n)]
    ratios = [db(power(x) / power(a)) for a in added if a.any()]
    assert abs(len(ratios) / n - 0.3) < 4 * np.sqrt(0.21 / n)
    assert min(ratios) > 4.9
    assert max(ratios) < 15.1
    assert np.mean(ratios) == pytest.approx(10, abs=1)


@pytest.mark.parametrize("source", ["folder", "synthetic"])
def test_rooms_change_the_sound_but_not_its_power(folder, source):
    wild, x = Wild(16_000, reverb=folder if source == "folder" else source), sound(3000)
    for seed in range(5):
        made = wild(x, rng(seed), reverb_share=1.0)
        np.testing.assert_array_equal(made, wild(x, rng(seed), reverb_share=1.0))
        assert not np.allclose(made, x, atol=1e-3)
        assert power(made) == pytest.approx(power(x), rel=1e-3)
        np.testing.assert_array_equal(wild(x, rng(seed), reverb_share=0.0), x)
    np.testing.assert_array_equal(Wild(16_000)(x, rng(), 1.0, (0.0, 0.0), 1.0), x)


def test_it_travels_between_processes(folder):
    wild, x = Wild(16_000, folder, "synthetic"), sound(3000)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(wild))(x, rng()), wild(x, rng()))


def test_a_silent_piece_adds_nothing_and_neither_does_a_broken_file_which_is_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    wild, x = Wild(16_000, noise=tmp_path), sound(3000)
    np.testing.assert_array_equal(wild(x, rng(), 1.0), x)
    (tmp_path / "a.wav").write_bytes(b"no sound")
    for hurt in (Wild(16_000, noise=tmp_path), Wild(16_000, reverb=tmp_path)):
        with pytest.warns(UserWarning, match=r"a\.wav: cannot be read as sound.* It is passed over"):
            np.testing.assert_allclose(hurt(x, rng(), 1.0, reverb_share=1.0), x, atol=1e-6)
        _useless.cache_clear()
    impulse = np.r_[0.5, np.zeros(100), 0.2].astype(np.float32)  # of 6 ms
    soundfile.write(tmp_path / "a.wav", impulse, 16_000)
    np.testing.assert_allclose(Wild(16_000, reverb=tmp_path).impulse(rng()), impulse, atol=1e-3)


def test_folders_without_audio_are_refused(tmp_path):
    for kind in ("noise", "reverb"):
        for place in (tmp_path, tmp_path / "gone"):
            with pytest.raises(ValueError, match=r"must be a folder with audio files \(.wav .*\) or 'synthetic'; none is there"):
                Wild(16_000, **{kind: place})


# features


def features(T: int, bins: int = 80) -> np.ndarray:
    x = rng(T).normal(size=(T, bins)).astype(np.float32)
    x.setflags(write=False)
    return x


def spans(masked: np.ndarray) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, masked, False].astype(int)))
    return list(edges[1::2] - edges[::2])


@pytest.mark.parametrize("T", [1, 2, 9, 63, 100, 1000])
def test_masks_are_the_mean_and_not_too_wide(T):
    x = features(T)
    for seed in range(50):
        made = spec_augment(x, rng(seed), 2, 20, 2.0, 15)
        assert (made.dtype, made.shape) == (np.float32, x.shape)
        np.testing.assert_array_equal(made, spec_augment(x, rng(seed), 2, 20, 2.0, 15))
        changed = made != x
        np.testing.assert_array_equal(made[changed], np.broadcast_to(x.mean(0), x.shape)[changed])
        bands, stretches = changed.all(0), changed.all(1)
        if T > 1:
            np.testing.assert_array_equal(changed, bands | stretches[:, None])  # nothing else
            assert bands.sum() <= 40
            assert stretches.sum() <= min(15, 0.2 * T) * np.ceil(2.0 * T / 100)
            assert len(spans(bands)) <= 2
            assert len(spans(stretches)) <= np.ceil(2.0 * T / 100)


def test_masks_are_as_many_and_as_wide_as_asked_on_average():
    x, widths, shares, bands = features(250), [], [], []
    for seed in range(2000):
        made = spec_augment(x, rng(seed), 1, 10, 0.3, 12)  # 0.75 stretches of 0 to 12 frames, one band of 0 to 10 bins
        changed = made != x
        bands.append(changed.all(0).sum())
        widths += spans(changed.all(1))
        shares.append(changed.all(1).sum())
    assert np.mean(bands) == pytest.approx(5, abs=0.3)
    assert sorted(set(bands)) == list(range(11))
    assert sorted(set(widths)) == list(range(1, 13))
    assert np.mean(shares) == pytest.approx(0.75 * 6, abs=0.4)


def test_each_place_is_masked():
    x, hit = features(60, 23), np.zeros((60, 23), bool)
    for seed in range(500):
        hit |= spec_augment(x, rng(seed), 1, 5, 3.0, 10) != x
    assert hit.all()


def test_no_masks_change_nothing():
    x = features(50)
    for masks in [(0, 20, 0.0, 10), (2, 0, 5.0, 0), (2, 0, 5.0, 0.9)]:
        made = spec_augment(x, rng(), *masks)
        np.testing.assert_array_equal(made, x)
        assert made is not x
    assert spec_augment(features(10, 4), rng(), 1, 100, 0.0, 0).shape == (10, 4)  # a band is at most all


# features


@pytest.mark.parametrize("factor", [0.75, 0.9, 1.0, 1.2, 1.5])
@pytest.mark.parametrize("n", [1, 2, 63, 400])
def test_tempo_moves_time_and_nothing_else(n, factor):
    x = np.stack([np.arange(n), np.full(n, 7.0)], 1).astype(np.float32)
    x.setflags(write=False)
    made = tempo(x, factor)
    assert made.dtype == np.float32
    assert len(made) == max(round(n / factor), 1)
    np.testing.assert_allclose(made[:, 1], 7, rtol=1e-6)
    want = np.clip((np.arange(len(made)) + 0.5) * factor - 0.5, 0, n - 1)
    np.testing.assert_allclose(made[:, 0], want, atol=1e-4 * n)
    if factor == 1:
        np.testing.assert_array_equal(made, x)

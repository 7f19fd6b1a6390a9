"""Laws of the filterbank: Kaldi's numbers for every length, and a stream that gives what the whole gives."""

from __future__ import annotations

import time

import kaldi_native_fbank as knf
import numpy as np
import pytest

from longshort.apps.speech.features import BLOCK, FLOOR, Filterbank

BANKS = [
    Filterbank(),
    Filterbank(8000),
    Filterbank(8000, 40, 64.0, 0.0),
    Filterbank(11_025, 23),
    Filterbank(44_100, 128, 0.0, 8000.0),
]
SHORT = [1, 2, 3, 39, 79, 80, 81, 119, 120, 121, 160, 239, 240, 241, 279, 280, 281, 399, 400, 401]


def kaldi(bank: Filterbank, x: np.ndarray) -> np.ndarray:
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = bank.rate
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.frame_opts.window_type = "povey"
    options.mel_opts.low_freq = bank.low
    options.mel_opts.high_freq = bank.high
    options.mel_opts.num_bins = bank.bins
    options.use_energy = False
    oracle = knf.OnlineFbank(options)
    oracle.accept_waveform(bank.rate, x.tolist())
    oracle.input_finished()
    rows = [oracle.get_frame(t) for t in range(oracle.num_frames_ready)]
    return np.array(rows, np.float32).reshape(-1, bank.bins)


def exact(bank: Filterbank, x: np.ndarray) -> np.ndarray:
    """The definition, frame by frame, in doubles."""
    n, W, x = len(x), bank.window, x.astype(np.float64)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(W) / (W - 1))) ** 0.85
    size = 2 ** int(np.ceil(np.log2(W)))
    top = bank.high if bank.high > 0 else bank.rate / 2 + bank.high
    corner = np.linspace(1127 * np.log(1 + bank.low / 700), 1127 * np.log(1 + top / 700), bank.bins + 2)
    mel = 1127 * np.log(1 + np.arange(size // 2) * bank.rate / size / 700)
    rows = []
    for t in range(bank.frames(n)):
        at = (bank.shift * t + bank.shift // 2 - W // 2 + np.arange(W)) % (2 * n)
        frame = x[np.minimum(at, 2 * n - 1 - at)]
        frame = frame - frame.mean()
        frame = (frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])) * window
        power = np.abs(np.fft.rfft(frame, size)[:-1]) ** 2
        row = [power @ np.interp(mel, corner[k : k + 3], [0, 1, 0], left=0, right=0) for k in range(bank.bins)]
        rows.append(np.log(np.maximum(row, 2.0**-23)))
    return np.array(rows).reshape(-1, bank.bins)


def sound(rng: np.random.Generator, n: int, rate: int = 16_000, range_db: float = 0) -> np.ndarray:
    """Noise of random strength, and a tone and a direct current that are louder by up to so many decibels."""
    tone = np.sin(2 * np.pi * rng.uniform(50, rate / 2) * np.arange(n) / rate)
    louder = 10 ** (rng.uniform(-10, range_db, 2) / 20)
    return (10 ** rng.uniform(-3, -1.5) * (rng.normal(size=n) + louder[0] * tone + louder[1])).astype(np.float32)


def pieces(rng: np.random.Generator, n: int, most: int) -> list[slice]:
    """Random pieces that make n, some of them empty."""
    ends = np.sort(rng.integers(0, n + 1, max(1, 2 * n // most)))
    return [slice(a, b) for a, b in zip([0, *ends], [*ends, n], strict=True)]


@pytest.mark.parametrize("bank", BANKS, ids=str)
def test_features_are_those_of_kaldi(bank):
    rng = np.random.default_rng(bank.rate)
    some = rng.integers(1, 20_000, 15)
    for n in [*SHORT, *some, BLOCK * bank.shift, (2 * BLOCK + 1) * bank.shift + 7]:
        x = sound(rng, int(n), bank.rate)
        wanted, made = kaldi(bank, x), bank(x)
        assert made.dtype == np.float32
        assert made.shape == wanted.shape == (bank.frames(int(n)), bank.bins)
        np.testing.assert_allclose(made, wanted, atol=1e-3, rtol=0, err_msg=f"{n} samples")


@pytest.mark.parametrize("bank", BANKS, ids=str)
def test_features_are_exact(bank):
    """Loud tones over faint noise too, where single precision, which Kaldi computes in, would show."""
    rng = np.random.default_rng(bank.rate)
    for n in [*SHORT, *rng.integers(400, 20_000, 20)]:
        x = sound(rng, int(n), bank.rate, range_db=60)
        np.testing.assert_allclose(bank(x), exact(bank, x), atol=1e-5, rtol=0, err_msg=f"{n} samples")


@pytest.mark.parametrize("bank", BANKS, ids=str)
@pytest.mark.parametrize("most", [7, 160, 5000])
def test_a_stream_gives_what_the_whole_gives(bank, most):
    rng = np.random.default_rng(most)
    for n in [0, *SHORT, *rng.integers(1, 30_000, 10)]:
        x, stream = sound(rng, int(n), bank.rate), bank.stream()
        made = np.concatenate([*(stream.accept(x[piece]) for piece in pieces(rng, int(n), most)), stream.finish()])
        np.testing.assert_allclose(made, bank(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bank", BANKS, ids=str)
def test_each_frame_comes_with_the_last_sample_of_its_window(bank):
    """One sample at a time: frame t is centred at t shifts and a half, and needs half a window more."""
    x, stream = sound(np.random.default_rng(1), 5 * bank.window + 3, bank.rate), bank.stream()
    last = [bank.shift * t + bank.shift // 2 - bank.window // 2 + bank.window for t in range(bank.frames(len(x)))]
    rows = []
    for n in range(1, len(x) + 1):
        rows += list(stream.accept(x[n - 1 : n]))
        assert len(rows) == sum(k <= n for k in last)
    np.testing.assert_allclose([*rows, *stream.finish()], bank(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [0, 1, 79, 80, 16_000])
def test_frames_are_counted_without_the_sound(n):
    bank = Filterbank()
    assert bank(np.zeros(n)).shape == (bank.frames(n), 80)
    assert bank.frames(n) == round(n / 160 + 1e-9)


def test_silence_is_the_floor_and_loudness_an_offset():
    bank, x = Filterbank(), sound(np.random.default_rng(2), 8000)
    np.testing.assert_array_equal(bank(np.full(999, 0.25)), np.log(FLOOR))
    np.testing.assert_allclose(bank(x + np.float32(0.125)), bank(x), atol=2e-2)
    loud = bank(np.random.default_rng(3).normal(size=8000))
    np.testing.assert_allclose(bank(np.random.default_rng(3).normal(size=8000) / 4), loud - 2 * np.log(4), atol=1e-4)


@pytest.mark.parametrize("hertz", [100, 440, 1000, 3000, 7000])
def test_a_tone_is_loudest_in_the_triangle_around_it(hertz):
    bank = Filterbank()
    row = bank(np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000) / 2)[50]
    mel = 1127 * np.log1p(np.array([20, 7600, hertz]) / 700)
    assert abs(row.argmax() - ((mel[2] - mel[0]) / (mel[1] - mel[0]) * 81 - 1)) <= 1


@pytest.mark.parametrize("factor", [0.85, 0.95, 1.0, 1.1, 1.2])
@pytest.mark.parametrize("hertz", [300, 1000, 2500])
def test_a_longer_throat_moves_a_tone_by_its_factor(hertz, factor):
    bank = Filterbank()
    there = [bank(np.sin(2 * np.pi * f * np.arange(8000) / 16_000))[10:-10] for f in (hertz, hertz * factor)]
    loudest = [x.mean(0).argmax() for x in (bank.warp(there[0], factor), there[1])]
    assert abs(loudest[0] - loudest[1]) <= 1


@pytest.mark.parametrize("bank", BANKS, ids=str)
@pytest.mark.parametrize("factor", [0.8, 0.93, 1.0, 1.07, 1.2])
def test_throats_keep_the_range_and_the_order_of_the_filters(bank, factor):
    slope = np.linspace(3, 7, bank.bins, dtype=np.float32)[None]
    there = bank.warp(slope, factor)
    assert there.shape == slope.shape
    assert there.dtype == np.float32
    assert there.min() >= 3
    assert there.max() <= 7
    assert (np.diff(there) > 0).all()
    assert np.abs(bank.warp(slope, 1.0) - slope).max() < 1e-5
    back = bank.warp(there, 1 / factor)
    assert np.abs(back - slope)[:, 3:-3].max() < 0.1


def test_one_bad_sample_stays_in_its_windows():
    bank, x = Filterbank(), sound(np.random.default_rng(4), 16_000)
    broken = x.copy()
    broken[8000] = np.nan
    with np.errstate(invalid="ignore"):
        made = bank(broken)
    centre = 160 * np.arange(100) + 80
    bad = (centre - 200 <= 8000) & (centre + 200 > 8000)
    assert np.isnan(made[bad]).all()
    np.testing.assert_array_equal(made[~bad], bank(x)[~bad])


def test_the_input_is_not_changed_and_doubles_are_as_good():
    x = sound(np.random.default_rng(5), 3000)
    x.setflags(write=False)
    np.testing.assert_array_equal(Filterbank()(x), Filterbank()(x.astype(np.float64)))
    np.testing.assert_array_equal(Filterbank()(x), Filterbank()(np.repeat(x, 2)[::2]))


def test_what_is_no_sound_is_refused():
    bank, stream = Filterbank(), Filterbank().stream()
    with pytest.raises(TypeError, match=r"floats in \[-1, 1\], got int16. audio.mono"):
        bank(np.zeros(400, np.int16))
    with pytest.raises(ValueError, match=r"one axis, \[N\], got \[400, 2\]"):
        bank(np.zeros((400, 2)))
    stream.finish()
    with pytest.raises(ValueError, match="is finished and takes no more samples"):
        stream.accept(np.zeros(1))
    assert len(stream.finish()) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 0}, "at least 1000 Hz and one bin, got 0 Hz"),
        ({"bins": 0}, "one bin, got 16000 Hz, 0 bins"),
        ({"low": -1}, "between 0 and half the rate of 16000 Hz, got -1 to 7600 Hz"),
        ({"high": 9000}, "got 20 to 9000 Hz"),
        ({"high": -8000}, "got 20 to 0 Hz"),
        ({"low": float("nan")}, "got nan to"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Filterbank(**fields)


def test_it_is_fast():
    """On one core: 250 times faster than the sound lasts; 160 ms of it in half a millisecond. The best runs: the machine may be busy."""
    bank, x = Filterbank(), sound(np.random.default_rng(6), 30 * 16_000)
    bank(x)
    stream, whole, parts = bank.stream(), [], []
    for _ in range(5):
        start = time.process_time()
        bank(x)
        whole.append(time.process_time() - start)
    for k in range(0, len(x), 2560):
        start = time.process_time()
        stream.accept(x[k : k + 2560])
        parts.append(time.process_time() - start)
    assert min(whole) / 30 < 0.004
    assert np.quantile(parts, 0.1) < 0.5e-3

"""Laws of reading sound: what was written comes back at any rate, and what is broken is refused by name."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from longshort.apps.speech import audio
from longshort.apps.speech.audio import AudioError, Resampler, SilentError, info, mono, read

LOSSLESS = [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("aiff", "PCM_16"), ("w64", "DOUBLE")]
LOSSY = [("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III"), ("wav", "ULAW"), ("wav", "PCM_U8")]
RATES = [8000, 16_000, 44_100]


def noise(n: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    x = 0.1 * np.random.default_rng(seed).normal(size=(n, channels)).astype(np.float32)
    return x[:, 0] if channels == 1 else x


def save(path: Path, x: np.ndarray, rate: int = 16_000, subtype: str | None = None) -> Path:
    soundfile.write(path, x, rate, subtype)
    return path


def refused(path: Path, **piece: float) -> str:
    """The reason, if the message begins with the file."""
    with pytest.raises(AudioError) as e:
        read(path, **piece)
    assert str(e.value) == f"{path}: {e.value.reason}"
    assert e.value.path == Path(path)
    return e.value.reason


def outcome(path: Path) -> np.ndarray | AudioError:
    try:
        return read(path)
    except AudioError as e:
        return e


# what was written comes back


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("kind", "subtype"), LOSSLESS)
def test_lossless_files_are_mixed_and_resampled(tmp_path, kind, subtype, rate, channels):
    path = save(tmp_path / f"a.{kind}", noise(3 * rate + 17, channels), rate, subtype)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    for to in RATES:
        made = read(path, to)
        wanted = whole.mean(1) if to == rate else soxr.resample(whole.mean(1), rate, to)
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, wanted, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize(("kind", "subtype"), LOSSLESS + LOSSY)
def test_a_tone_stays_the_same_tone(tmp_path, kind, subtype, rate):
    n = 2 * rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(n) / rate)
    path = save(tmp_path / f"a.{kind}", np.stack([tone, tone], 1), rate, subtype)
    made = read(path)
    assert len(made) == 32_000
    assert info(path) == (2.0, rate)
    spectrum = np.abs(np.fft.rfft(made[8000:24_000])) / 8000
    assert spectrum.argmax() == 440
    assert spectrum[440] == pytest.approx(0.5, rel=0.03)
    assert np.sum(spectrum**2) - np.sum(spectrum[435:446] ** 2) < 0.01 * spectrum[440] ** 2


@pytest.mark.parametrize(("kind", "subtype"), [*LOSSLESS, ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")])
def test_a_piece_is_cut_out_of_the_whole(tmp_path, kind, subtype):
    path = save(tmp_path / f"a.{kind}", noise(48_000, 2), 16_000, subtype)
    whole, rng = read(path), np.random.default_rng(1)
    for first, last in np.sort(rng.integers(0, 48_001, (20, 2)), 1):
        if last - first >= 400:
            made = read(path, 16_000, first / 16_000, (last - first) / 16_000)
            np.testing.assert_allclose(made, whole[first:last], atol=1e-6)
    np.testing.assert_allclose(read(path, start=1.5), whole[24_000:], atol=1e-6)
    np.testing.assert_allclose(read(path, start=2.0, duration=1.05), whole[32_000:], atol=1e-6)  # lengths are often rounded


@pytest.mark.parametrize("name", ["Größe 1.wav", "音声.flac", "a b'c\"d.ogg", "-dash.wav", ".wav", "UPPER.WAV", "no_suffix"])
def test_names_do_not_matter(tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, noise(8000), 16_000, format="OGG" if name.endswith("ogg") else "FLAC" if "音" in name else "WAV")
    assert len(read(path)) == len(read(str(path))) == 8000


def test_the_suffix_does_not_matter_either(tmp_path):
    path = save(tmp_path / "a.flac", noise(8000)).rename(tmp_path / "a.mp3")
    assert len(read(path)) == 8000


@pytest.mark.parametrize("frm", RATES)
@pytest.mark.parametrize("to", RATES)
def test_resampling_does_not_depend_on_the_pieces(frm, to):
    rng = np.random.default_rng(frm + to)
    for n in [0, 1, 2, 99, 1000, 12_345]:
        x, resampler = noise(n), Resampler(frm, to)
        ends = np.sort(rng.integers(0, n + 1, 30))
        made = [resampler.accept(x[a:b]) for a, b in zip([0, *ends], [*ends, n], strict=True)] + [resampler.finish()]
        np.testing.assert_array_equal(np.concatenate(made), x if frm == to else soxr.resample(x, frm, to))
    singly, resampler = noise(500), Resampler(frm, to)
    made = [resampler.accept(singly[k : k + 1]) for k in range(500)] + [resampler.finish()]
    np.testing.assert_array_equal(np.concatenate(made), mono(singly, frm, to))
    assert len(resampler.finish()) == 0
    with pytest.raises(ValueError, match="is finished"):
        resampler.accept(singly)


@pytest.mark.parametrize("channels", [1, 2])
def test_arrays_give_what_their_file_gives(tmp_path, channels):
    for subtype, dtype in [("PCM_16", np.int16), ("PCM_32", np.int32), ("FLOAT", np.float32), ("DOUBLE", np.float64)]:
        path = save(tmp_path / f"{subtype}.wav", noise(30_000, channels), 44_100, subtype)
        x, rate = soundfile.read(path, dtype=np.dtype(dtype).name)
        np.testing.assert_allclose(mono(x, rate), read(path), atol=1e-7)
    half = mono(x.astype(np.float16), rate)
    np.testing.assert_allclose(half, read(path), atol=1e-3)


def test_what_is_too_loud_is_clipped(tmp_path):
    x = 1.5 * np.sin(np.arange(16_000) / 10)
    np.testing.assert_array_equal(read(save(tmp_path / "a.wav", x, subtype="FLOAT")), np.clip(x.astype(np.float32), -1, 1))
    square = np.sign(np.sin(np.arange(44_100) / 10))
    assert np.abs(mono(square, 44_100)).max() == 1.0


# what is broken is refused by name


def test_what_is_no_file_is_refused(tmp_path):
    assert refused(tmp_path / "gone.wav") == "there is no such file."
    assert refused(tmp_path) == "is not a file."
    os.mkfifo(tmp_path / "pipe.wav")
    assert refused(tmp_path / "pipe.wav") == "is not a file."  # opening it would wait for ever
    (tmp_path / "empty.wav").touch()
    assert refused(tmp_path / "empty.wav") == "is empty: 0 bytes."


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.raw", "a.txt", "a"])
@pytest.mark.parametrize(
    "content", [b"hello, this is no sound at all", b"\0" * 5000, b"\xff\xfb" * 300, b"RIFF", b"OggS\0", b"{}"]
)
def test_what_is_no_sound_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "FFmpeg" in refused(tmp_path / name)


@pytest.mark.parametrize(("kind", "subtype"), LOSSLESS + LOSSY)
def test_a_file_that_is_cut_anywhere_is_read_or_refused(tmp_path, kind, subtype):
    """WAV, FLAC and MP3 announce their length, so that a missing end of some seconds is seen."""
    path = save(tmp_path / f"a.{kind}", noise(48_000), 16_000, subtype)
    data, short, rng = path.read_bytes(), tmp_path / f"b.{kind}", np.random.default_rng(2)
    for cut in [*range(1, 100), *rng.integers(100, len(data), 40)]:
        short.write_bytes(data[:cut])
        made = outcome(short)
        if isinstance(made, AudioError):
            assert str(made).startswith(f"{short}: ")
        else:
            assert kind in ("ogg", "w64", "aiff") or len(made) > 48_000 - 16_000 * audio.SLACK
            assert np.abs(made).max() <= 1


@pytest.mark.parametrize(("kind", "subtype"), LOSSLESS + LOSSY)
def test_a_damaged_file_is_read_or_refused(tmp_path, kind, subtype):
    path = save(tmp_path / f"a.{kind}", noise(16_000), 16_000, subtype)
    data, rng = path.read_bytes(), np.random.default_rng(3)
    for k in range(60):
        broken = bytearray(data)
        for at in rng.integers(0, 60 if k % 2 else len(data), 8):
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        made = outcome(path)
        if isinstance(made, AudioError):
            assert str(made).startswith(f"{path}: ")
        else:
            assert np.abs(made).max() <= 1  # and so none is NaN


def test_a_missing_end_is_told_in_seconds(tmp_path):
    path = save(tmp_path / "a.wav", noise(48_000))
    path.write_bytes(path.read_bytes()[: 44 + 32_000])
    assert refused(path) == "is cut off: its header announces 2.00 s more than there are."
    with pytest.raises(AudioError, match="is cut off"):
        info(path)
    path = save(tmp_path / "a.mp3", noise(48_000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path).startswith("is cut off or damaged: 3.00 s were announced, 1.")
    path = save(tmp_path / "a.flac", noise(48_000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path).startswith("is damaged: ")


def test_a_wav_that_was_written_to_a_pipe_is_read(tmp_path):
    """Its header could not know the length."""
    path = save(tmp_path / "a.wav", noise(48_000))
    data = bytearray(path.read_bytes())
    for endless in (b"\xff\xff\xff\xff", b"\0\xf0\xff\x7f", b"\xff\xff\xff\x7f"):
        data[40:44] = endless
        path.write_bytes(data)
        assert len(read(path)) == 48_000
        assert info(path) == (3.0, 16_000)


def test_an_mp3_without_a_length_is_counted(tmp_path):
    """Quiet, then loud, at a bit rate that varies: a guess from the first frame is off by half."""
    path = tmp_path / "a.mp3"
    x = np.concatenate([np.zeros(32_000), noise(96_000)])
    soundfile.write(path, x, 16_000, bitrate_mode="VARIABLE", compression_level=0.5)
    data = path.read_bytes()
    path.write_bytes(data[data.find(data[:2], 4) :])  # without the first frame, which holds the length
    assert soundfile.info(path).duration > 12
    assert info(path) == (pytest.approx(8, abs=0.2), 16_000)
    assert len(read(path)) == pytest.approx(8 * 16_000, abs=3000)
    assert len(read(path, start=7)) == pytest.approx(16_000, abs=3000)
    assert "but 9.00 s to the end was asked for" in refused(path, start=9.0)


def test_a_flac_without_a_length_is_refused_with_a_remedy(tmp_path):
    path = save(tmp_path / "a.flac", noise(16_000))
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert refused(path) == "its header does not say how long it is. FFmpeg writes a new one: ffmpeg -i OLD NEW."


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, bad):
    x = noise(700_000)
    x[-5] = bad
    assert refused(save(tmp_path / "a.wav", x, subtype="FLOAT")) == "holds samples that are NaN or infinite."
    with pytest.raises(ValueError, match="this array holds samples that are NaN"):
        mono(x, 16_000)


def test_samples_of_another_scale_are_refused(tmp_path):
    x = np.round(noise(16_000) * 32_768)
    assert "but floats must lie in [-1, 1]: divide them" in refused(save(tmp_path / "a.wav", x, subtype="FLOAT"))
    with pytest.raises(ValueError, match="this array holds samples up to"):
        mono(x, 16_000)


@pytest.mark.parametrize("level", [0.0, 0.25])
@pytest.mark.parametrize("rate", RATES)
def test_silence_is_refused(tmp_path, level, rate):
    """Resampling makes a constant ring at its ends; that is silence as well."""
    path = save(tmp_path / "a.wav", np.full(rate, level), rate)
    assert refused(path) == f"is silent: all samples are {level:g}."
    x = noise(3 * rate)
    x[rate : 2 * rate] = level
    path = save(tmp_path / "b.wav", x, rate)
    with pytest.raises(SilentError):
        read(path, start=1.0, duration=1.0)
    assert len(read(path)) == 48_000
    both = noise(rate)
    assert refused(save(tmp_path / "c.wav", np.stack([both, -both], 1), rate, "FLOAT")) == "is silent: all samples are 0."


def test_lengths_out_of_range_are_refused(tmp_path, monkeypatch):
    assert "0.024 s are too short: at least 0.025 s" in refused(save(tmp_path / "a.wav", noise(390)))
    assert len(read(save(tmp_path / "b.wav", noise(400)))) == 400
    assert refused(save(tmp_path / "c.wav", noise(0))) == "is empty: its header is followed by no sound."
    path = save(tmp_path / "d.wav", noise(32_000))
    monkeypatch.setattr(audio, "LONGEST", 1.5)
    assert "are read at once. Read it in pieces, with `start` and `duration`." in refused(path)
    assert len(read(path, start=0.5)) == 24_000


def test_pieces_outside_the_file_are_refused(tmp_path):
    path = save(tmp_path / "a.wav", noise(16_000))
    assert refused(path, start=1.0) == "lasts 1.00 s, but 1.00 s to the end was asked for."
    assert refused(path, start=5.0) == "lasts 1.00 s, but 5.00 s to the end was asked for."
    assert refused(path, start=0.5, duration=0.7) == "lasts 1.00 s, but 0.50 s to 1.20 s was asked for."
    for piece in ({"start": -0.1}, {"start": np.nan}, {"start": np.inf}, {"duration": 0.0}, {"duration": np.inf}):
        assert "must begin at 0 s or later and last" in refused(path, **piece)


def test_rates_out_of_range_are_refused(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(100)
        f.writeframes(bytes(range(200)))
    assert "100 samples per second are out of range" in refused(path)
    for rate in (0, -16_000, 10**7):
        with pytest.raises(ValueError, match="a rate must lie between 1000 and 768000"):
            Resampler(16_000, rate)
        with pytest.raises(ValueError, match="a rate must lie between"):
            mono(noise(400), rate)


@pytest.mark.parametrize("shape", [(), (2, 16_000), (16_000, 0), (3, 4, 5)])
def test_arrays_of_other_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \[N\] or \[N, channels\], got .* Does the time come first"):
        mono(np.zeros(shape), 16_000)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int64, bool, complex])
def test_arrays_of_other_numbers_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"floats in \[-1, 1\], int16 or int32, got {np.dtype(dtype)}"):
        mono(np.zeros(400, dtype), 16_000)


def test_errors_travel_between_processes():
    e = pickle.loads(pickle.dumps(SilentError("a.wav", "is silent.")))
    assert (type(e), e.path, e.reason, str(e)) == (SilentError, Path("a.wav"), "is silent.", "a.wav: is silent.")
    assert isinstance(e, AudioError)
    assert isinstance(e, ValueError)


def test_nothing_heavy_is_imported_before_it_is_needed():
    names = "audio features units data augment"
    code = f"import sys; from longshort.apps.speech import {names.replace(' ', ', ')}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "soundfile", "soxr", "sentencepiece", "scipy"} & set(done.stdout.split())


@pytest.mark.parametrize(("module", "use"), [("soundfile", lambda p: read(p)), ("soxr", lambda p: mono(np.zeros(9), 8000))])
def test_a_missing_library_is_named_with_its_remedy(monkeypatch, tmp_path, module, use):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"speech needs {module}, .*: pip install 'longshort\[speech\]'"):
        use(tmp_path)

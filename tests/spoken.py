"""Digit strings spoken by espeak-ng in several voices: speech that belongs to nobody.

As a script: `python spoken.py FOLDER [train] [valid] [test]` with the number of recordings in each.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile as sf

from longshort.apps.speech import audio
from longshort.apps.speech.data import Utterance, write

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f2", "en-gb+f4", "en-us+m3", "en-gb+m7")
NEW = ("en-gb+f3", "en-us+m5")  # voices that are in the test only


def speak(words: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """What espeak-ng says, float32 at 16 kHz, [N]."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", words]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except FileNotFoundError as e:
        raise RuntimeError("these tests need espeak-ng: sudo apt-get install espeak-ng") from e
    samples, rate = sf.read(io.BytesIO(done.stdout), dtype="float32")
    return audio.mono(samples, rate)


def corpus(folder: Path, counts: dict[str, int], seed: int = 0, most: int = 6) -> dict[str, Path]:
    """Manifests of digit strings by split, with their sound; no string of digits is in two splits."""
    rng, seen, made = np.random.default_rng(seed), set(), {}
    for split, n in counts.items():
        lines = []
        for k in range(n):
            while (digits := tuple(rng.integers(10, size=rng.integers(3, most + 1)))) in seen:
                pass
            seen.add(digits)
            text = " ".join(DIGITS[d] for d in digits)
            voice = str(rng.choice(VOICES if split != "test" else VOICES + NEW))
            x = speak(text, voice, int(rng.integers(90, 150)), int(rng.integers(30, 70)))
            quiet = [np.zeros(int(n), np.float32) for n in rng.uniform(0, 6_000, 2)]  # at both ends
            x = np.concatenate([quiet[0], x * np.float32(rng.uniform(0.3, 1)), quiet[1]])
            x += rng.normal(size=len(x)).astype(np.float32) * np.float32(1e-3)
            path = folder / split / f"{k:04}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, np.clip(x, -1, 1), 16_000)
            lines.append(Utterance(f"{split}-{k:04}", path, text, len(x) / 16_000, speaker=voice))
        made[split] = folder / f"{split}.jsonl"
        write(made[split], lines)
    return made


if __name__ == "__main__":
    print(corpus(Path(sys.argv[1]), dict(zip(("train", "valid", "test"), map(int, sys.argv[2:]), strict=False))))

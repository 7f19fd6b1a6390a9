"""Spoken digits: made with espeak-ng, learned, transcribed, heard live. Needs espeak-ng and longshort[speech,plot].

Takes about a minute on two CPU cores; writes the recordings, model.safetensors and recording.png.

    python examples/speech.py [FOLDER]            default folder: out/speech
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from longshort.apps.speech import Endpoint, Recognizer
from longshort.apps.speech.plot import utterance
from longshort.train import Training

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
VOICES = "en-us", "en-gb", "en-gb-scotland", "en-us+f2", "en-gb+f4", "en-us+m3"


def quiet(seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A room in which nobody speaks."""
    return 1e-3 * rng.normal(size=int(seconds * rate))


def speak(folder: Path, name: str, n: int, rng: np.random.Generator) -> Path:
    """Record n strings of digits in several voices; their manifest."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for k in range(n):
        text, audio = " ".join(rng.choice(DIGITS, rng.integers(3, 7))), f"{name}/{k:04}.wav"
        voice = ["-v", str(rng.choice(VOICES)), "-s", str(rng.integers(90, 150)), "-p", str(rng.integers(30, 70))]
        said = subprocess.run(["espeak-ng", *voice, "--stdout", text], capture_output=True, check=True).stdout
        samples, rate = soundfile.read(io.BytesIO(said))
        before, after = (quiet(rng.uniform(0, 0.5), rate, rng) for _ in range(2))
        soundfile.write(folder / audio, np.concatenate([before, samples, after]), rate)
        lines.append(json.dumps({"audio_filepath": audio, "text": text}) + "\n")
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(lines))
    return manifest


def main(out: Path, recordings: tuple[int, int, int] = (400, 40, 60)) -> float:
    """Record, train, score, and hear the test recordings once more as one stream; the word error rate in percent."""
    rng = np.random.default_rng(0)
    sets = [speak(out, name, n, rng) for name, n in zip(("train", "valid", "test"), recordings, strict=True)]

    training = Training(steps=1400, lr=4e-3, warmup=0.1, evaluate=200, patience=0, average=0.98)
    recognizer = Recognizer(hidden=96, layers=2, channels=8, dropout=0.1, seconds=30, longest=10, curriculum=20, time_masks=0.3,
                            freq_masks=1, ngram=2, training=training)  # fmt: skip
    recognizer.fit(sets[0], sets[1], progress=True)
    recognizer.save(out / "model.safetensors")

    tests = [json.loads(line) for line in sets[2].read_text().splitlines()]
    utterance(recognizer, out / tests[0]["audio_filepath"]).savefig(out / "recording.png", dpi=150)
    stream = recognizer.stream(endpoint=Endpoint(silence=0.8))
    for one in tests[:4]:
        samples, rate = soundfile.read(out / one["audio_filepath"])
        samples = np.concatenate([samples, quiet(1.0, rate, rng)])
        for k in range(0, len(samples), rate // 10):  # as a microphone would give it
            stream.accept(samples[k : k + rate // 10], rate)
    stream.finish()
    print("said:  " + " | ".join(one["text"] for one in tests[:4]))
    print("heard: " + " | ".join(done.text for done in stream.finished))

    rate = recognizer.evaluate(sets[2]).scores()["WER"]
    print(f"word error rate {rate:.1f} %")
    print(f"wrote {out / 'model.safetensors'}, {out / 'recording.png'}")
    return rate


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/speech"))

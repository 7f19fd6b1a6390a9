"""Numbers from English to German: made by rules, learned, translated, looked into. Needs longshort[translate,plot].

Takes about half a minute on one CPU core; writes the sentences, model.safetensors and attention.png.

    python examples/translate.py [FOLDER]            default folder: out/translate
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from longshort.apps.translate import Translator
from longshort.apps.translate.plot import attention
from longshort.train import Training

ONES, EINS, TENS, ZEHN = (words.split() for words in (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen",
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn "
    "neunzehn",
    "twenty thirty forty fifty sixty seventy eighty ninety", "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
))  # fmt: skip
SHOWN = 21, 7365  # what is translated in the end; nothing is learned of them
THINGS = {"dog": "Hund", "horse": "Pferd", "boat": "Boot", "year": "Jahr", "day": "Tag"}  # -e makes many of each


def english(n: int) -> str:
    """A number below a million in words: 'four thousand and twenty-one'."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")
    unit, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    rest = "" if not n % unit else f" {'' if n % unit >= 100 else 'and '}{english(n % unit)}"
    return f"{english(n // unit)} {name}{rest}"


def german(n: int, alone: bool = True) -> str:
    """The same in German, which says ones before tens, in one word: 'viertausendeinundzwanzig'."""
    if n < 20:
        return "ein" if n == 1 and not alone else EINS[n]
    if n < 100:
        return (f"{german(n % 10, False)}und" if n % 10 else "") + ZEHN[n // 10 - 2]
    unit, name = (1000, "tausend") if n >= 1000 else (100, "hundert")
    return german(n // unit, False) + name + (german(n % unit) if n % unit else "")


def write(folder: Path, name: str, numbers: np.ndarray, rng: np.random.Generator) -> tuple[Path, Path]:
    """A sentence about each number, and its translation on the same line of another file."""
    files = folder / f"{name}.en", folder / f"{name}.de"
    made = zip(numbers, rng.choice(list(THINGS), len(numbers)), strict=True)
    pairs = [(f"I count {english(n)} {thing}s.\n", f"Ich zähle {german(n)} {THINGS[thing]}e.\n") for n, thing in made]
    for file, lines in zip(files, zip(*pairs, strict=True), strict=True):
        file.write_text("".join(lines), encoding="utf-8")
    return files


def main(out: Path, pairs: tuple[int, int, int] = (6000, 200, 500), epochs: int = 10) -> float:
    """Write, train, translate and score; the BLEU of numbers that were never seen."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    drawn = np.exp(rng.uniform(np.log(2), np.log(100_000), 3 * sum(pairs))).astype(int)  # small ones are not rare
    numbers = rng.permutation(np.setdiff1d(drawn, SHOWN))[: sum(pairs)]
    parts = zip(("train", "valid", "test"), np.split(numbers, np.cumsum(pairs)[:-1]), strict=True)
    train, valid, test = (write(out, name, of, rng) for name, of in parts)

    training = Training(epochs=epochs, lr=5e-3, warmup=0.05, evaluate=100, average=0.98)
    translator = Translator(pieces=200, embed=64, hidden=64, decode=128, encoder_layers=1, decoder_layers=1,
                            dropout_embed=0.1, dropout_word=0.0, dropout=0.1, dropout_output=0.1, weight_drop=0.0, rdrop=0.0,
                            training=training)  # fmt: skip
    translator.fit(train, valid, progress=True)
    translator.save(out / "model.safetensors")

    few, many = (f"I count {english(n)} {t}s." for n, t in zip(SHOWN, ("dog", "day"), strict=True))
    print(translator.translate(f"{few}\n\n  {many}\n"), end="")  # lines, empty ones and blanks stay
    (known,) = translator.explain(many)
    print(f"confidence {known.confidence:.2f}, looked at:")
    for at, k in known.alignment():
        print(f"  {known.words[k][0]} <- {known.source_words[at][0]}")
    attention(known.attention, known.source_pieces, known.pieces, known.text).savefig(out / "attention.png", dpi=150)

    evaluation = translator.evaluate(test)
    print(evaluation.scores["BLEU"])
    right = sum(output == pair.target for output, pair in zip(evaluation.outputs, evaluation.pairs, strict=True))
    print(f"{right} of {pairs[2]} sentences without a mistake")
    print(f"wrote {out / 'model.safetensors'}, {out / 'attention.png'}")
    return evaluation.scores["BLEU"].value


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/translate"))

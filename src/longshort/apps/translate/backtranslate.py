"""Back-translation: sentence pairs from text in the target language alone, with a translator that goes the other way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from longshort.apps.translate.data import Drop, Pair
from longshort.apps.translate.translator import AHEAD, Translator
from longshort.apps.translate.vocabulary import normal


def backtranslated(
    translator: Translator, texts: Iterable[str], drops: list[Drop], *, name: str = "line", confidence: float = 0.0,
    longest: int = 128, **how: Any,
) -> Iterator[Pair]:  # fmt: skip
    """Pairs of a made source and a true target, for a translator into the language of the text.

    A line is left out if nothing is in it to translate, if it came before, or if it is too long; and if what was made of it is
    cut, empty, the line itself, or not sure enough.

    Args:
        translator: from the language of the text to the language that will be the source.
        texts: a sentence each.
        drops: gets what is left out.
        name: of the text, as `Pair.where` and `drops` say it.
        confidence: of a translation, at least.
        longest: tokens of a line, at most.
        **how: as in `Translator.translate`. sample=True, which draws translations, helps most where there are many real pairs.

    Source: Sennrich et al. 2016, Improving neural machine translation models with monolingual data; Edunov et al. 2018,
        Understanding back-translation at scale.
    """
    seen: set[str] = set()
    numbered = enumerate(map(normal, texts), 1)
    while group := list(islice(numbered, AHEAD)):
        asked: list[Pair] = []
        for k, line in group:
            pair = Pair("", line, f"{name}:{k}")
            if not any(c.isalnum() for c in line):
                drops.append(Drop(pair, "with nothing to translate"))
            elif line in seen:
                drops.append(Drop(pair, "that came before"))
            elif (n := len(translator.source.encode(line))) > longest:
                drops.append(Drop(pair, f"longer than {longest} tokens", str(n)))
            else:
                asked.append(pair)
            seen.add(line)
        for pair, (_, (made, *_)) in zip(asked, translator.explain_each([p.target for p in asked], **how), strict=True):
            if not made.finished:
                drops.append(Drop(pair, "that became too long"))
            elif not any(c.isalnum() for c in made.text):
                drops.append(Drop(pair, "that became empty"))
            elif made.text == pair.target:
                drops.append(Drop(pair, "that stayed as they were"))
            elif made.confidence < confidence:
                drops.append(Drop(pair, f"with a confidence below {confidence:g}", f"{made.confidence:.3f}"))
            else:
                yield pair._replace(source=made.text)

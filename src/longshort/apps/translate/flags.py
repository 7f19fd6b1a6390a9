"""What the flags of the verbs have in common: how they are made, where sentence pairs come from, how text is translated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from longshort.apps.translate import data as corpus
from longshort.apps.translate.data import Pair
from longshort.apps.translate.decode import Search
from longshort.apps.translate.decoding import Decoding
from longshort.apps.translate.text import PATTERNS, Glossary, Keep
from longshort.flags import Flag, flags

Texts = Annotated[tuple[str, ...], Parameter(consume_multiple=1, negative="", show_default=False)]
Files = Annotated[tuple[Path, ...], Parameter(consume_multiple=1, negative="", show_default=False)]


def flag(name: str) -> str:
    """What a field is called on the command line."""
    return f"--{name.replace('_', '-')}"


def sentence_pairs(
    src: Sequence[Path], tgt: Sequence[Path], data: Sequence[Path], columns: str | None, *names: str
) -> list[Pair]:
    """The sentence pairs of some files; names are those of their flags."""
    one, two, both = (flag(name) for name in names or ("src", "tgt", "data"))
    if bool(src) != bool(tgt) and not data:
        raise ValueError(f"{one if src else two} needs {two if src else one}, the file with the other side of each pair.")
    if bool(src or tgt) == bool(data):
        said = "got both" if data else "got neither"
        raise ValueError(f"sentence pairs must come from {one} with {two}, or from {both}, {said}.")
    if len(src) != len(tgt):
        raise ValueError(f"{one} and {two} must name as many files, got {len(src)} and {len(tgt)}.")
    if columns is not None and not data:
        raise ValueError(f"--columns are those of {both}: of two files there are none.")
    numbers = None if columns is None else _columns(columns)
    made = [pair for s, t in zip(src, tgt, strict=True) for pair in corpus.read(s, t)]
    return made + [pair for path in data for pair in corpus.read(path, columns=numbers)]


def _columns(said: str) -> tuple[int, int]:
    parts = said.split(",")
    if len(parts) != 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise ValueError(f"--columns must be two numbers such as 1,2, source and target, got {said!r}.")
    return int(parts[0]), int(parts[1])


CHOOSE = Parameter(name="*", negative="", group=Group("How words are chosen", sort_key=1))
ASK = Parameter(name="*", group=Group("What is asked of the text", sort_key=2))
SAMPLED = ("temperature", "top_k", "top_p", "seed")  # settings that only samples have
DRAWS = {name: getattr(Search, name) for name in SAMPLED}
ASKED = {"beam": None, "length_penalty": None}
TOLD = {
    "beam": "hypotheses that go on side by side; 1 is greedy. Without it 5, or as many as alternatives.",
    "length_penalty": "0 ranks by probability, which likes short translations; 1 nearly by the mean of a token. Without it what "
    "was best on the validation pairs.",
}  # fmt: skip

if TYPE_CHECKING:
    SearchFlags = Search
else:
    SearchFlags = flags(Search(), ASKED, TOLD)


@dataclass(frozen=True)
class Asked:
    """What is asked of the text, and of whom.

    Args:
        glossary: file with a term, a tab and its translation on each line; where the term is, the translation will be. A term
            may come again with another translation: then one of them will be there.
        keep: leave links, e-mail addresses, placeholders and tags as they are.
        keep_pattern: leave what these regular expressions match as it is.
        prefix: what each translation begins with.
        copy: write the source word in the place of an unknown one.
        fast: write only words that are likely for those of the sentence; less exact, and faster with large vocabularies.
        ensemble: further models with the same vocabularies, which decide together.
    """

    glossary: Path | None = None
    keep: Flag = False
    keep_pattern: Texts = ()
    prefix: str = ""
    copy: Annotated[bool, Parameter(negative="--no-copy")] = True
    fast: Flag = False
    ensemble: Files = ()

    def how(self, search: Any) -> dict[str, Any]:
        """Fields of `Decoding` and `Search`.

        Raises:
            ValueError: one is out of range, or one does not go with another.
            OSError: the glossary cannot be read.
        """
        asked = {k: v for k, v in vars(search).items() if v is not None}
        if not search.sample and (alone := [k for k in SAMPLED if asked[k] != DRAWS[k]]):
            raise ValueError(f"{flag(alone[0])} is of samples: give --sample, too.")
        if search.sample and search.beam is not None:
            raise ValueError("--sample draws words and has no beam. Give --sample or --beam.")
        if search.sample and (self.glossary or self.keep or self.keep_pattern):
            raise ValueError(
                "--sample draws words and cannot be made to write what --glossary or --keep asks for. Leave one out."
            )
        patterns = (*(PATTERNS.values() if self.keep else ()), *self.keep_pattern)
        asked |= {"glossary": None if self.glossary is None else Glossary.read(self.glossary), "prefix": self.prefix,
                  "keep": Keep(patterns) if patterns else None, "copy": self.copy, "fast": self.fast}  # fmt: skip
        Decoding.of(**{"length_penalty": Search.length_penalty, **asked})
        return asked


PLAIN, NOTHING = SearchFlags(), Asked()

"""How sentences are translated: the search, and what is asked of the text. From sentences to translations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longshort.apps.translate.confidence import Calibration, judge
from longshort.apps.translate.constraints import Constraints
from longshort.apps.translate.decode import Hypothesis, Search, search
from longshort.apps.translate.markup import Tag, place, strip
from longshort.apps.translate.model import Network
from longshort.apps.translate.steps import prepared
from longshort.apps.translate.text import Glossary, Keep, Required, copies, required, restored, veil
from longshort.apps.translate.translation import Alternative, Translation
from longshort.apps.translate.vocabulary import EOS, STRANGE, UNK, Vocabulary, normal

LONGEST = 10_000  # tokens of a sentence: attention takes memory by their square
TOGETHER = 64  # sentences that are searched side by side
WIDEST = 64  # hypotheses of a sentence at most, where its alternatives are looked for


@dataclass(frozen=True)
class Decoding:
    """How sentences are translated.

    Args:
        search: beam, penalties, sampling; see `Search`.
        glossary: terms and their translations, of which one must appear where the term does.
        keep: what is not translated, by regular expressions; None translates all.
        prefix: what each translation begins with.
        copy: write the source word in the place of an unknown one.
        fast: write only tokens that the shortlist has for the words of the sentences.
    """

    search: Search = field(default_factory=Search)
    glossary: Glossary | None = None
    keep: Keep | None = None
    prefix: str = ""
    copy: bool = True
    fast: bool = False

    @classmethod
    def of(cls, length_penalty: float, **how: Any) -> Decoding:
        """From the fields of this class and of `Search`, all in one.

        Args:
            length_penalty: where none is given.
            **how: glossary may be a mapping from terms to one translation or several, keep True (links, addresses, placeholders),
                a regular expression or a list of them.

        Raises:
            TypeError: a name is unknown; the message lists those that are known.
        """
        own, of_search = ({f.name for f in fields(c)} - {"search"} for c in (cls, Search))
        if unknown := sorted(set(how) - own - of_search):
            raise TypeError(f"{', '.join(unknown)} must be one of {', '.join(sorted(own | of_search))}.")
        if isinstance(g := how.get("glossary"), Mapping):
            how["glossary"] = Glossary(g)
        if isinstance(k := how.get("keep"), bool | str | list | tuple):
            how["keep"] = (Keep() if k else None) if isinstance(k, bool) else Keep((k,) if isinstance(k, str) else tuple(k))
        asked = {"length_penalty": length_penalty} | {k: v for k, v in how.items() if k in of_search}
        if "alternatives" in asked and "beam" not in asked and not asked.get("sample"):
            asked["beam"] = max(Search.beam, asked["alternatives"])
        return cls(Search(**asked), **{k: v for k, v in how.items() if k in own})


class _Seen(NamedTuple):
    """A sentence as a network gets it.

    bare: without its tags.
    tokens: its tokens.
    spans: where they stand in it.
    must: what must appear in its translation.
    tags: what was taken out of it.
    """

    bare: str
    tokens: list[int]
    spans: list[tuple[int, int]]
    must: list[Required]
    tags: list[Tag]


class Reader:
    """Translates sentences with one network, or with an ensemble.

    Args:
        networks: over the same tokens.
        source: the tokens that are read.
        target: the tokens that are written.
        shortlist: for each source token the target tokens that may translate it, int32, [V, K], -1 where there are fewer; None:
            there is none.
        calibration: what the signs of a bad translation weigh.
    """

    def __init__(
        self, networks: Sequence[Network], source: Vocabulary, target: Vocabulary, shortlist: Tensor | None = None,
        calibration: Calibration = Calibration(),  # noqa: B008
    ) -> None:  # fmt: skip
        self.networks, self.source, self.target = networks, source, target
        self.shortlist, self.calibration = shortlist, calibration

    def __call__(self, sentences: Sequence[str], how: Decoding) -> list[Translation]:
        """The translation of each sentence; none depends on the others. Where a beam holds too few different texts, for the same
        text may be there in many pieces, wider ones are tried."""
        made = self.once(sentences, how)
        few = [k for k, t in enumerate(made) if len(t.alternatives) < how.search.alternatives]
        if few and how.search.beam < WIDEST and not how.search.sample:
            wider = replace(how, search=replace(how.search, beam=min(2 * how.search.beam, WIDEST)))
            for k, t in zip(few, self([sentences[k] for k in few], wider), strict=True):
                made[k] = t
        return made

    def once(self, sentences: Sequence[str], how: Decoding) -> list[Translation]:
        """As a call, with one search."""
        if how.fast and self.shortlist is None:
            raise ValueError("this translator has no shortlist: train it with --shortlist, or translate without fast.")
        kept = [[] if how.keep is None else how.keep.changed(s) for s in sentences]
        sentences = [normal(s) for s in sentences]
        seen = [self._seen(s, how) for s in sentences]
        tokens = [one.tokens for one in seen]
        if long := [s for s, t in zip(sentences, tokens, strict=True) if len(t) > LONGEST]:
            raise ValueError(f"a sentence must have at most {LONGEST} tokens: {long[0][:60]!r} has more. Split it into lines.")
        prefix = tuple(self.target.encode(how.prefix))
        begun = [Required(0, 0, (normal(how.prefix),), (prefix,))] if UNK in prefix else []
        made: dict[int, Translation] = {}
        wide = how.search
        if wide.alternatives > 1 and not wide.sample:
            wide = replace(wide, alternatives=wide.beam)
        lengths, device = np.array([len(t) for t in tokens]), self.networks[0].bias.device
        with prepared(self.networks) as networks:
            for some in alike(lengths, 1 if how.fast else TOGETHER):
                x = torch.tensor([[*tokens[k], EOS] for k in some], device=device)
                asked = [self._asked(prefix, seen[k]) for k in some]
                only = self._only(tokens[some[0]], asked[0]) if how.fast else None
                for k, found in zip(some, search(networks, x, wide, asked, only), strict=True):
                    made[int(k)] = self._translation(sentences[k], seen[k], found, begun, kept[k], how)
        return [made[k] for k in range(len(sentences))]

    @cached_property
    def _veils(self) -> bool:
        """Whether the networks have learned to pass on an unknown word."""
        able = all(v.encode(STRANGE).count(UNK) == 1 for v in (self.source, self.target))
        return able and all(n.config.unknown for n in self.networks)

    def _seen(self, sentence: str, how: Decoding) -> _Seen:
        """A sentence as a network gets it. What is kept is unknown to one that has learned to pass on what it does not know."""
        bare, tags = (sentence, []) if how.keep is None else strip(sentence, how.keep.tags(sentence))
        if not any(c.isalnum() for c in bare) or normal(bare) != bare:  # or what a tag parted has become one
            bare, tags = sentence, []
        for way in (True, False) if how.keep is not None and self._veils else (False,):
            must = required(bare, self.target.encode, how.glossary, how.keep, self.target.solid_for(bare), way)
            text, places = veil(bare, must)
            tokens = self.source.encode(text)
            spans = [(places[a], places[b]) for a, b in self.source.spans(text, tokens)]
            unknown = {span for token, span in zip(tokens, spans, strict=True) if token == UNK}
            if all((one.start, one.end) in unknown for one in must if one.veiled):  # none has become one with its neighbour
                break
        return _Seen(bare, tokens, spans, must, tags)

    def _asked(self, prefix: tuple[int, ...], seen: _Seen) -> Constraints:
        must = seen.must
        loose = frozenset(phrase for one in must for phrase in one.loose)
        places = tuple(tuple(j for j, (a, b) in enumerate(seen.spans) if a < one.end and one.start < b) for one in must)
        return Constraints(prefix, tuple(one.phrases for one in must), self.target.glued if must else frozenset(), loose, places)

    def _only(self, tokens: Sequence[int], asked: Constraints) -> Tensor:
        """What may be written for a sentence: its tokens' entries in the shortlist, those tokens, and what is asked for."""
        table = cast(Tensor, self.shortlist)
        found = table[list(dict.fromkeys([*tokens, EOS]))].unique()
        own = [] if self.source is not self.target else [*tokens]
        more = torch.tensor([*own, *asked.tokens, UNK, EOS], dtype=found.dtype)
        return torch.cat([found[found >= 0], more]).unique().to(torch.int64)

    def _translation(
        self, sentence: str, seen: _Seen, found: Sequence[Hypothesis], begun: Sequence[Required],
        kept: Sequence[tuple[str, str]], how: Decoding,
    ) -> Translation:  # fmt: skip
        best, (bare, tokens, spans, must, tags) = found[0], seen

        def copied(h: Hypothesis) -> list[str]:
            return copies(h.tokens, h.attention, bare, tokens, spans, UNK, [*begun, *must], self.target.spans, how.copy)

        def text(h: Hypothesis) -> str:
            unknown = copied(h)
            made = self.target.decode(h.tokens, unknown)
            if tags:
                made = place(made, tags, self._places(h.tokens, unknown), h.attention, bare, spans, within(h.tokens, must))
            return restored(made, kept)

        sure = judge(best, tokens, self.source.pieces, self.target.pieces, self.calibration)
        known, made = ([*(v.pieces[k] for k in of), "</s>"] for v, of in ((self.source, tokens), (self.target, best.tokens)))
        hidden = [bare[slice(*span)] for k, span in zip(tokens, spans, strict=True) if k == UNK]
        read = _words(self.source, tokens, hidden)
        written = _words(self.target, best.tokens, [text.strip(STRANGE) for text in copied(best)])
        several = [Alternative(text(h), h.logp, h.score, len(h.tokens) + 1) for h in found]
        if not how.search.sample:  # a search may find the same text in different pieces
            several = [a for k, a in enumerate(several) if a.text not in {b.text for b in several[:k]}]
        alternatives = tuple(several[: how.search.alternatives])
        return Translation(alternatives[0].text, sentence, best.logp, best.score, sure.value, sure.signs, tuple(known),
                           tuple(made), best.attention, read, written, alternatives, best.finished, best.met)  # fmt: skip

    def _places(self, ids: Sequence[int], unknown: Sequence[str]) -> list[tuple[int, int]]:
        """Where each token stands in their text, without the blank before a word."""
        made, end = [], 0
        whole = self.target.decode(ids, unknown)
        for k in range(1, len(ids) + 1):
            text = self.target.decode(ids[:k], unknown[: ids[:k].count(UNK)])
            made.append((end + (len(text) > end and whole[end : end + 1] == " "), len(text)))
            end = len(text)
        return made


def within(tokens: Sequence[int], must: Sequence[Required]) -> set[int]:
    """Tokens of a translation that go on with something that must appear as it is."""
    phrases = {phrase for one in must for phrase in one.phrases}
    return {at + k for phrase in phrases for at in range(len(tokens) - len(phrase) + 1)
            if tuple(tokens[at : at + len(phrase)]) == phrase for k in range(1, len(phrase))}  # fmt: skip


def alike(lengths: NDArray, most: int) -> list[NDArray]:
    """Which sentences have equal lengths, in groups of at most so many."""
    all = [np.flatnonzero(lengths == n) for n in np.unique(lengths)]
    return [some for rows in all for some in np.split(rows, range(most, len(rows), most))]


def _words(of: Vocabulary, ids: Sequence[int], texts: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Words as they are written, with the positions of their tokens; texts are those of the unknown ones, in order."""
    known = iter(texts)
    return tuple((of.decode([ids[k] for k in at], [next(known) for k in at if ids[k] == UNK]), tuple(at)) for at in of.words(ids))

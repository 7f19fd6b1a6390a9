"""What a translator reads and writes: pieces of words that SentencePiece learned. Text to token ids and back. No torch."""

from __future__ import annotations

import base64
import math
import random
import re
import unicodedata
import zlib
from bisect import bisect, bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args

import numpy as np

from longshort import extras
from longshort.scripts import ALONE

Kind = Literal["bpe", "unigram", "char"]
PAD, UNK, BOS, EOS = range(4)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")  # what these four are called; none of them is ever made from text
START = "▁"  # how a piece says that a word begins with it
STRANGE = "\U0010fffd"  # a character that no text has
RESERVED = "\0▅"  # characters that SentencePiece needs for itself: always unknown
RARE = 5e-4  # share of the text that may become unknown where there are very many characters
POOL = 64  # segmentations of a word that BPE-dropout chooses from
KEPT = 50_000  # words whose segmentations are kept, those that come first
LONG = 24  # characters from which on a word is too rare to keep its segmentations
NBEST, ALPHA = 64, 0.2  # of Kudo 2018, for a unigram model
SOME = 20  # characters of such a script that are tried: with most words some do not merge
MANY = 0.1  # share of the tokens that such a script has in the vocabulary of a language that is written in one
NEARLY = 0.85  # ... where no other language shares the vocabulary, or one that is written so as well
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]")
REPLACED = {ord(START): " ", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}  # SentencePiece's blank; halves of characters
need = partial(extras.need, what="translation", extra="translate")


def normal(text: str) -> str:
    """Text as it is learned and translated: Unicode NFC, single spaces, none at the ends. Nothing else is changed: neither case
    nor punctuation nor width. White space of other kinds, no-break spaces and line ends too, becomes a space."""
    return " ".join(unicodedata.normalize("NFC", text.translate(REPLACED)).split())


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one side of a translator, or of both.

    Args:
        kind: bpe, pieces that grew by merging what is often side by side; unigram, pieces that make the text most probable; char,
            each character.
        blob: the SentencePiece model.

    Raises:
        ValueError: the kind is unknown.

    Source: Sennrich et al. 2016, Neural machine translation of rare words with subword units; Kudo 2018, Subword regularization;
        Kudo & Richardson 2018, SentencePiece.
    """

    kind: Kind
    blob: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check(self.kind)

    @classmethod
    def fit(cls, texts: Iterable[str], kind: Kind = "bpe", size: int = 8000, *, byte_fallback: bool = False) -> Vocabulary:
        """The vocabulary of some texts, which are made `normal` first. Digits stay single, so that any number can be copied.

        All characters of the texts are known where they take at most half of the places (of char: all). Beyond that the rarest
        become unknown, up to 0.05 % of the text, and so do those that do not fit at all.

        Args:
            texts: what to learn from; of both languages, if they are to share it.
            kind: bpe, unigram or char.
            size: tokens at most, the four special ones included; fewer where the texts do not hold so many.
            byte_fallback: write what is unknown as its bytes in UTF-8, which take 256 tokens; so nothing is.

        Raises:
            ValueError: the texts are empty, or size does not even hold one character.
            ImportError: sentencepiece is not installed.
        """
        _check(kind)
        lines = [line for text in texts if (line := normal(text))]
        counts = Counter[str]()
        for line in lines:
            counts.update(line)
        for taken in (" ", *RESERVED):
            counts.pop(taken, None)
        if not counts:
            raise ValueError("a vocabulary must be made from texts with at least one character; there is none.")
        room = size - len(SPECIAL) - 256 * byte_fallback - len(START)
        if room < 1:
            raise ValueError(f"size must be at least {size - room + 1}, the special tokens and one character, got {size}.")
        seen = sorted(counts, key=lambda c: (-counts[c], c))
        shares = accumulate(counts[c] for c in seen)
        enough = next(k for k, share in enumerate(shares, 1) if share >= counts.total() * (1 - RARE))
        keep = min(len(seen), room, room if kind == "char" else max(enough, room // 2))
        gone = dict.fromkeys(map(ord, (*RESERVED, *seen[keep:])), " ")
        digits = [c for c in sorted(seen[:keep]) if c.isdecimal() and not c.isascii()]  # those of ASCII it splits itself
        sp, made = need("sentencepiece"), BytesIO()
        sp.SentencePieceTrainer.train(
            sentence_iterator=(line.translate(gone) for line in lines), model_writer=made, model_type=kind, vocab_size=size,
            hard_vocab_limit=False, character_coverage=1.0, normalization_rule_name="identity", split_digits=True,
            user_defined_symbols=digits, byte_fallback=byte_fallback, max_sentence_length=2**30, num_threads=1, minloglevel=2,
            pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS,
        )  # fmt: skip
        return cls(kind, made.getvalue())

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """The text of each token, in which "▁" begins a word."""
        return tuple(map(self._model.id_to_piece, range(len(self._model))))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, which is made `normal` first. No BOS, no EOS; a run of unknown characters is one UNK."""
        return list(self._model.encode(normal(text)))

    def decode(self, ids: Iterable[int], unknown: str | Sequence[str] = "⁇") -> str:
        """The text of token ids. `decode(encode(text)) == normal(text)` where nothing is unknown.

        Args:
            ids: tokens; PAD, BOS and EOS write nothing.
            unknown: what UNK writes, or what each UNK writes, in order.

        Raises:
            ValueError: not as many unknown as there are UNK.
        """
        ids = [int(k) for k in ids]
        count = ids.count(UNK)
        texts = [unknown] * count if isinstance(unknown, str) else list(unknown)
        if len(texts) != count:
            raise ValueError(f"unknown must have a text for each of {count} UNK, got {len(texts)}.")
        made, spell, texts = [], bytearray(), texts[::-1]
        for k in ids:
            if (byte := self._bytes.get(k)) is not None:
                spell.append(byte)
                continue
            made.append(spell.decode("utf-8", "replace"))
            spell.clear()
            made.append(texts.pop() if k == UNK else self._written[k])
        return normal("".join(made) + spell.decode("utf-8", "replace"))

    def starts_word(self, id: int) -> bool:
        """Whether a word begins with a token."""
        return self._written[id].startswith(" ")

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        """Which tokens make each word of `decode(ids)`: their positions in ids. PAD, BOS, EOS and a "▁" alone belong to none. In
        scripts without spaces between words each token is one, and so is what another script wrote between two."""
        made, alone = list[list[int]]([[]]), False
        for k, token in enumerate(ids):
            body = self._written[token].strip()
            if self.starts_word(token) or alone or ALONE.match(body):
                made.append([])
            if token not in (PAD, BOS, EOS) and self._written[token] != " ":
                made[-1].append(k)
            alone = bool(ALONE.match(body[-1:]))
        return [word for word in made if word]

    @cached_property
    def solid(self) -> str:
        """Some characters after which words go on without a space, where one of the languages is written so; else none."""
        return "".join([piece for piece in self._solids if len(piece) == 1][:SOME]) if self._written_solid(MANY) else ""

    def solid_for(self, sentence: str) -> str:
        """`solid`, for the translation of a sentence: none where it is the sentence's language that is written so, not ours."""
        return self.solid if self._written_solid(NEARLY) or not ALONE.search(sentence) else ""

    @cached_property
    def glued(self) -> frozenset[int]:
        """The tokens that go on with a word: no blank before them, and a letter, digit or mark first. Not those of scripts
        without spaces, and not those of Korean, whose particles follow any word at once."""
        first = [text[:1] for text in self._written]
        letter = [c != "" and (c.isalnum() or c == "_" or unicodedata.category(c)[0] == "M") for c in first]
        return frozenset(k for k, c in enumerate(first) if letter[k] and not ALONE.match(c) and not HANGUL.match(c))

    def spans(self, text: str, ids: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """Where each token stands in a text: first character and the one after the last, without the space before a word.

        Args:
            text: which text; the positions are those in `normal(text)`.
            ids: its tokens, as `encode` or `sample` give them; None encodes it.

        Returns:
            One span per token. A "▁" alone has an empty one; each byte of a character has the span of the character.

        Raises:
            ValueError: the tokens are those of another text.
        """
        text, at, byte, made = normal(text), 0, 0, []
        ids = self.encode(text) if ids is None else ids
        for k in ids:
            body = self._written[k].removeprefix(" ")
            at += self.starts_word(k) and text[at : at + 1] == " "
            if k in self._bytes:
                made.append((at, at + 1))
                byte += 1
                if byte == len(text[at : at + 1].encode()):
                    at, byte = at + 1, 0
                continue
            end = at + len(body)
            if k == UNK:
                end = next((e for e in range(at, len(text)) if text[e] in self._alphabet), len(text))
            elif text[at:end] != body:
                break
            made.append((at, end))
            at = end
        if len(made) != len(ids) or at != len(text):
            raise ValueError(f"ids must be tokens of {text[:60]!r}; number {len(made)} is not, or some are missing.")
        return made

    def sample(self, text: str, rng: np.random.Generator, rate: float) -> list[int]:
        """Token ids of a text, some words of which are cut into other pieces than usual; for training.

        Args:
            text: which text; it is made `normal` first.
            rng: draws.
            rate: how much changes, in [0, 1]; 0 is `encode`. bpe: how likely each merge is passed over at each step, so that 1
                gives characters; a word has 64 such segmentations. unigram: how likely a word is drawn anew, from its 64 best
                segmentations with probability p**0.2. char: means nothing.

        Raises:
            ValueError: rate is out of range.

        Source: bpe: Provilkov et al. 2020, BPE-dropout, algorithm 1. unigram: Kudo 2018, Subword regularization, section 3.2.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be in [0, 1], got {rate}.")
        words = normal(text).split()
        if rate == 0 or self.kind == "char" or not words:
            return self.encode(text)
        made: list[int] = []
        if self.kind == "bpe":
            pool = self._pools.setdefault(rate, {})
            for word, slot in zip(words, rng.integers(POOL, size=len(words)).tolist(), strict=True):
                if len(word) >= LONG:
                    made += self._merged(word, rate, random.Random(int(rng.integers(2**63))))
                    continue
                kept = pool.get(word) or [()] * POOL
                if len(pool) < KEPT:
                    pool[word] = kept
                if not kept[slot]:
                    kept[slot] = tuple(self._merged(word, rate, random.Random(zlib.crc32(word.encode()) * POOL + slot)))
                made += kept[slot]
            return made
        for word, (anew, u) in zip(words, rng.random((len(words), 2)).tolist(), strict=True):
            if anew < rate:
                best, shares = self._best.get(word) or self._ranked(word)
                made += best[bisect(shares, u, 0, len(best) - 1)]
            else:
                usual = self._usual.get(word) or self._model.encode(word)
                if len(self._usual) < KEPT:
                    self._usual[word] = usual
                made += usual
        return made

    def extra(self) -> dict[str, Any]:
        """All of it as plain JSON; `from_extra` reads it."""
        return {"kind": self.kind, "crc32": zlib.crc32(self.blob), "blob": base64.b64encode(self.blob).decode("ascii")}

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> Vocabulary:
        """What `extra` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            kind, crc, blob = extra["kind"], extra["crc32"], base64.b64decode(extra["blob"], validate=True)
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"a vocabulary must be a kind, a crc32 and a blob in base64: {e!r}. Is the file damaged?") from None
        if zlib.crc32(blob) != crc:
            raise ValueError(f"the checksum of the vocabulary must be {crc}, got {zlib.crc32(blob)}. Is the file damaged?")
        return cls(kind, blob)

    @cached_property
    def _model(self) -> Any:
        processor = need("sentencepiece").SentencePieceProcessor
        try:
            model = processor(model_proto=self.blob)
        except RuntimeError as e:
            raise ValueError(f"the SentencePiece model of the vocabulary cannot be read: {e}. Is the file damaged?") from None
        first = tuple(map(model.id_to_piece, range(min(len(model), len(SPECIAL)))))
        if first != SPECIAL:
            raise ValueError(f"a vocabulary must begin with {', '.join(SPECIAL)}, got {', '.join(first)}. Is the file damaged?")
        return model

    @cached_property
    def _solids(self) -> list[str]:
        return [piece.strip(START) for piece in self._ids if ALONE.match(piece.strip(START))]

    def _written_solid(self, share: float) -> bool:
        return len(self._solids) >= share * len(self._ids)

    @cached_property
    def _bytes(self) -> dict[int, int]:
        """The tokens that are bytes."""
        return {k: int(piece[3:5], 16) for k, piece in enumerate(self.pieces) if self._model.is_byte(k)}

    @cached_property
    def _written(self) -> tuple[str, ...]:
        """What each token adds to the text; those that are special or bytes, nothing."""
        silent = {PAD, UNK, BOS, EOS, *self._bytes}
        return tuple("" if k in silent else piece.replace(START, " ") for k, piece in enumerate(self.pieces))

    @cached_property
    def _alphabet(self) -> frozenset[str]:
        return frozenset("".join(self._written))

    @cached_property
    def _ids(self) -> dict[str, int]:
        """The token of each piece that text can become."""
        return {piece: k for k, piece in enumerate(self.pieces) if self._written[k]}

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """Of bpe: when a piece is merged, the first is 0."""
        return {piece: round(-self._model.get_score(k)) for piece, k in self._ids.items() if len(piece) > 1}

    @cached_property
    def _pools(self) -> dict[float, dict[str, list[tuple[int, ...]]]]:
        return {}

    @cached_property
    def _usual(self) -> dict[str, list[int]]:
        return {}

    @cached_property
    def _best(self) -> dict[str, tuple[list[list[int]], list[float]]]:
        return {}

    def _merged(self, word: str, rate: float, rng: random.Random) -> list[int]:
        """The tokens of a word by bpe, where each possible merge is passed over with probability `rate` at each step."""
        parts = list(START + word)
        n, ranks = len(parts), self._ranks
        left, right = list(range(-1, n - 1)), list(range(1, n + 1))
        found = sorted((ranks[a + b], k) for k, (a, b) in enumerate(pairwise(parts)) if a + b in ranks)

        def rank(k: int) -> int | None:
            return ranks.get(parts[k] + parts[right[k]]) if k >= 0 and right[k] < n else None

        while (chosen := next((j for j in range(len(found)) if rng.random() >= rate), None)) is not None:
            _, k = found.pop(chosen)
            gone = right[k]
            for j in (left[k], gone):
                if (old := rank(j)) is not None:
                    del found[bisect_left(found, (old, j))]
            parts[k] += parts[gone]
            parts[gone], right[k] = "", right[gone]
            if right[k] < n:
                left[right[k]] = k
            for j in (left[k], k):
                if (new := rank(j)) is not None:
                    insort(found, (new, j))
        made: list[int] = []
        for part in filter(None, parts):
            if (id := self._ids.get(part)) is not None:
                made.append(id)
            elif self._bytes:
                made += map(self._spelled.__getitem__, part.encode())
            elif made[-1] != UNK:
                made.append(UNK)
        return made

    @cached_property
    def _spelled(self) -> dict[int, int]:
        return {byte: k for k, byte in self._bytes.items()}

    def _ranked(self, word: str) -> tuple[list[list[int]], list[float]]:
        """Of unigram: the best segmentations of a word, and their shares of the probability, added up."""
        best = self._model.nbest_encode_as_ids(word, NBEST)
        scores = [ALPHA * sum(map(self._model.get_score, ids)) for ids in best]
        weights = [math.exp(s - max(scores)) for s in scores]
        made = best, [w / sum(weights) for w in accumulate(weights)]
        if len(word) < LONG and len(self._best) < KEPT:
            self._best[word] = made
        return made


def _check(kind: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"a vocabulary must be one of {', '.join(get_args(Kind))}, got {kind!r}.")

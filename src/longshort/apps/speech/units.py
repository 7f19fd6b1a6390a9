"""What a recogniser writes: characters, or pieces of words that SentencePiece learned. Text to token ids and back. No torch."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import accumulate
from typing import Any, Literal, get_args

from longshort.apps.speech.audio import need
from longshort.scripts import ALONE, words

Kind = Literal["char", "bpe"]
BLANK = "<blank>"  # token 0: nothing is written
START = "▁"  # how a piece says that a word begins with it
RESERVED = START + "▅\0"  # characters that SentencePiece needs for itself


def normal(text: str, fold: bool = False) -> str:
    """Text as it is learned and compared: Unicode NFC, single spaces, none at the ends; lower case if `fold`."""
    text = unicodedata.normalize("NFC", text)
    if fold:
        text = unicodedata.normalize("NFC", text.lower())
    return " ".join(text.split())


@dataclass(frozen=True)
class Units:
    """The tokens of a recogniser.

    Args:
        kind: char, each character of the training text and the space; or bpe, pieces of words, of which "▁" begins a word.
        pieces: the text of each token; the first is the blank.
        blob: the SentencePiece model of bpe; its unknown piece stands where the blank does, so that ids are the same.
        spaced: of bpe: whether the texts had spaces; those of characters know it by themselves.

    Raises:
        ValueError: the pieces do not begin with the blank, repeat, or do not suit the kind.

    Source: Sennrich et al. 2016, Neural machine translation of rare words with subword units; Kudo & Richardson 2018,
        SentencePiece.
    """

    kind: Kind
    pieces: tuple[str, ...]
    blob: bytes = b""
    spaced: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"units must be one of {', '.join(get_args(Kind))}, got {self.kind!r}.")
        if self.pieces[:1] != (BLANK,) or len(self.pieces) < 2 or len(set(self.pieces)) < len(self.pieces):
            raise ValueError(f"units must be {BLANK!r}, then one or more texts, each once; got {self.pieces[:5]}...")
        if (self.kind == "bpe") != bool(self.blob) or (self.kind == "char" and any(len(p) != 1 for p in self.pieces[1:])):
            raise ValueError("units of kind char are single characters without a model; units of kind bpe come with their model.")

    @classmethod
    def fit(cls, texts: Iterable[str], kind: Kind = "char", size: int = 500) -> Units:
        """The units of some texts, which are made `normal` first.

        Args:
            texts: what to learn from.
            kind: char or bpe.
            size: of bpe: tokens at most, the blank included; fewer where the texts do not hold so many.

        Raises:
            ValueError: the texts are empty, hold a character that SentencePiece reserves, or more characters than `size`.
            ImportError: bpe without sentencepiece.
        """
        lines = [line for text in texts if (line := normal(text))]
        seen = sorted(set().union(*lines))
        if not seen:
            raise ValueError("units must be made from texts with at least one character; there is none.")
        if kind != "bpe":
            return cls(kind, (BLANK, *seen))
        if bad := [c for c in seen if c in RESERVED]:
            raise ValueError(f"the texts hold {_named(bad)}, reserved by SentencePiece. Replace what is reserved or use char.")
        least = len({START, *seen} - {" "}) + 1
        if size < least:
            raise ValueError(f"bpe needs at least {least} tokens, one for each character of the texts and the blank, got {size}.")
        sp, made = need("sentencepiece", extra="pieces"), BytesIO()
        sp.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=made, model_type="bpe", vocab_size=size, hard_vocab_limit=False,
            character_coverage=1.0, normalization_rule_name="identity", max_sentence_length=2**30, num_threads=1,
            unk_id=0, unk_piece="▅", bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2,
        )  # fmt: skip
        model = sp.SentencePieceProcessor(model_proto=made.getvalue())
        return cls(
            "bpe",
            (BLANK, *(model.id_to_piece(k) for k in range(1, len(model)))),
            made.getvalue(),
            any(" " in line for line in lines),
        )

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, which is made `normal` first.

        Raises:
            ValueError: it holds a character that the training text did not.
            ImportError: bpe without sentencepiece.
        """
        text = normal(text)
        if strange := self.unknown(text):
            remedy = "Spell it with those, leave it out"
            remedy += ", or fold it to lower case." if not self.unknown(normal(text, fold=True)) else ", or learn it too."
            raise ValueError(f"{_named(strange)} in {text[:60]!r}: not among the characters of the training text. {remedy}")
        return [self._ids[c] for c in text] if self.kind == "char" else list(self._model.encode(text))

    def unknown(self, text: str) -> list[str]:
        """The characters of a text that cannot be written, sorted."""
        return sorted(set(normal(text)) - self._alphabet)

    def known(self, text: str) -> bool:
        """Whether `encode` takes a text."""
        return self._alphabet.issuperset(normal(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; blanks write nothing. `decode(encode(text)) == normal(text)`."""
        return normal("".join(self.written[k] for k in ids))

    @cached_property
    def solid(self) -> bool:
        """Whether words follow each other without spaces: none is written, in a script that needs none."""
        spaced = " " in self.pieces if self.kind == "char" else self.spaced
        return not spaced and any(map(ALONE.search, self.pieces))

    def starts_word(self, id: int) -> bool:
        """Whether a word begins with a token: a piece with the mark or, of characters, the space before the word."""
        return self.written[id].startswith(" ")

    def split(self, text: str) -> list[str]:
        """The words of a text; where they follow each other without spaces, its characters, as `scripts.words` finds them."""
        return words(text) if self.solid else text.split()

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        """Which tokens make each word of `decode(ids)`: their positions in ids. Blanks and spaces belong to no word. Of what is
        written without spaces each character is a word, or as many as a token has."""
        made, at = list[list[int]](), 0
        starts = {*accumulate(map(len, self.split("".join(self.written[k] for k in ids))), initial=0)} if self.solid else set()
        for k, token in enumerate(ids):
            if not made or self.starts_word(token) or (at in starts and self.written[token]):
                made.append([])
            at += len(self.written[token].lstrip())  # `split` has no blanks
            if self.written[token].strip():
                made[-1].append(k)
        return [word for word in made if word]

    def extra(self) -> dict[str, Any]:
        """All of it as plain JSON; `from_extra` reads it."""
        return {"kind": self.kind, "pieces": list(self.pieces), "blob": base64.b64encode(self.blob).decode("ascii"),
                "spaced": self.spaced}  # fmt: skip

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> Units:
        """What `extra` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            kind, pieces, blob = extra["kind"], list(extra["pieces"]), base64.b64decode(extra["blob"], validate=True)
            spaced = bool(extra.get("spaced", True))  # older ones do not say
            "".join(pieces)
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"units must be a kind, pieces and a blob in base64: {e!r}. Is the file damaged?") from None
        return cls(kind, tuple(pieces), blob, spaced)

    @cached_property
    def written(self) -> tuple[str, ...]:
        """What each token adds to the text, with a space where a word begins; the blank adds nothing."""
        return ("", *(p.replace(START, " ") if self.kind == "bpe" else p for p in self.pieces[1:]))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: k for k, piece in enumerate(self.pieces)}

    @cached_property
    def _alphabet(self) -> frozenset[str]:
        return frozenset("".join(self.written))

    @cached_property
    def _model(self) -> Any:
        processor = need("sentencepiece", extra="pieces").SentencePieceProcessor
        try:
            model = processor(model_proto=self.blob)
        except RuntimeError as e:
            raise ValueError(f"the SentencePiece model of the units cannot be read: {e}. Is the file damaged?") from None
        if len(model) != len(self):
            raise ValueError(f"the SentencePiece model has {len(model)} pieces, the units {len(self)}. Is the file damaged?")
        return model


def _named(characters: Sequence[str]) -> str:
    """Characters as a message shows them: 'é' (U+00E9)."""
    shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in characters[:5])
    return shown if len(characters) <= 5 else f"{shown} and {len(characters) - 5} more characters"

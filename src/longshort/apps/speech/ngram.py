"""An n-gram language model: learned from text (interpolated modified Kneser-Ney), read from and written to ARPA. NumPy only.

Natural logarithms inside and at the door; ARPA files hold log10. Words are any strings.
"""

from __future__ import annotations

import gzip
import math
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import IO, NamedTuple, cast

MARKS = UNKNOWN, START, END = "<unk>", "<s>", "</s>"
FALLBACK = 0.5, 1.0, 1.5  # discounts where the counts of counts give none: in few words, or where each of them is frequent
LOG10 = math.log(10)
Gram = tuple[int, ...]


class NGram:
    """Probabilities of words given the words before.

    Each n-gram is a node of a tree and has a number; the empty one is 0. A state is the number of the longest known n-gram of
    less than `order` words that ends here. Where a word was never seen after it, it backs off to its longest known suffix:

        p(w | v) = p(v w) if the n-gram v w is known, otherwise backoff(v) p(w | v without its first word)

    `fit` learns one from text, `read` takes one from a file.

    Args:
        words: the vocabulary, the marks <unk>, <s> and </s> among it; each is then to be entered as a 1-gram.
        order: words of the longest n-gram.
    """

    def __init__(self, words: Iterable[str], order: int) -> None:
        self.words, self.order = tuple(words), order
        self.number = {w: k for k, w in enumerate(self.words)}
        self.unknown, self.begin, self.end = (self.number[w] for w in MARKS)
        self.next: dict[int, int] = {}  # n-gram * V + word -> n-gram
        self.logp, self.backoff = array("d", [0.0]), array("d", [0.0])
        self.context, self.last = array("q", [0]), array("q", [0])  # the n-gram without its last word, and this word
        self.suffix, self.length = array("q", [0]), array("h", [0])  # the longest known n-gram that ends it, and its words

    def __len__(self) -> int:
        """Number of n-grams."""
        return len(self.logp) - 1

    def __contains__(self, word: str) -> bool:
        """Whether a word is in the vocabulary."""
        return word in self.number

    def add(self, gram: Sequence[int], logp: float, backoff: float = 0.0) -> None:
        """Enter an n-gram. Its suffixes and its context come first, and so shorter n-grams.

        Args:
            gram: numbers of its words.
            logp: natural log-probability of the last word given the others.
            backoff: natural log of the weight of shorter contexts where a word after it is not known.

        Raises:
            ValueError: its context is not known, or it is known itself.
        """
        V, word, context = len(self.words), gram[-1], 0
        for w in gram[:-1]:
            if (found := self.next.get(context * V + w)) is None:
                raise ValueError(f"its context {' '.join(self.words[k] for k in gram[:-1])!r} is no {len(gram) - 1}-gram")
            context = found
        if self.next.setdefault(context * V + word, len(self.logp)) != len(self.logp):
            raise ValueError("it is there twice")
        shorter, suffix = context, 0
        while shorter and not suffix:
            shorter = self.suffix[shorter]
            suffix = self.next.get(shorter * V + word, 0)
        self.logp.append(logp)
        self.backoff.append(backoff)
        for column, value in ((self.context, context), (self.last, word), (self.suffix, suffix), (self.length, len(gram))):
            column.append(value)

    def start(self) -> int:
        """The state at the start of a sentence."""
        return self._after(self.next[self.begin])

    def score(self, state: int, word: str) -> tuple[float, int]:
        """Natural log-probability of a word, and the state after it. A word out of the vocabulary is <unk>."""
        return self._score(state, self.number.get(word, self.unknown))

    def finish(self, state: int) -> float:
        """Natural log-probability that the sentence ends here."""
        return self._score(state, self.end)[0]

    def unigram(self, word: str) -> float:
        """Natural log-probability of a word, whatever stands before it."""
        return self.logp[self.next[self.number.get(word, self.unknown)]]

    def sentence(self, line: str | Sequence[str]) -> float:
        """Natural log-probability of a sentence, its end included. A text is split at white space."""
        total, state = 0.0, self.start()
        for word in _words(line):
            logp, state = self.score(state, word)
            total += logp
        return total + self.finish(state)

    def perplexity(self, lines: Iterable[str | Sequence[str]]) -> float:
        """Perplexity per word of sentences; their ends count as words, and so do unknown words. NaN without sentences."""
        total, n = 0.0, 0
        for words in map(_words, lines):
            total, n = total + self.sentence(words), n + len(words) + 1
        return math.exp(-total / n) if n else float("nan")

    def _score(self, state: int, word: int) -> tuple[float, int]:
        V, total = len(self.words), 0.0
        while (gram := self.next.get(state * V + word)) is None:
            total += self.backoff[state]
            state = self.suffix[state]
        return total + self.logp[gram], self._after(gram)

    def _after(self, gram: int) -> int:
        return gram if self.length[gram] < self.order else self.suffix[gram]

    @classmethod
    def fit(cls, lines: Iterable[str | Sequence[str]], order: int = 3) -> NGram:
        """Learn from sentences: interpolated modified Kneser-Ney.

        The longest n-grams are counted, shorter ones by how many words stand before them; from each count a discount is taken,
        and what all discounts of a context sum to goes to the distribution of the shorter context; from single words to the
        uniform one, in which <unk> has its part.

        Args:
            lines: sentences without marks; a text is split at white space, an empty one left out.
            order: words of the longest n-gram, 1 or more; fewer if no sentence is as long.

        Raises:
            ValueError: no sentence has a word, one holds a sentence mark, or the order is below 1.

        Source: Chen & Goodman 1998, An empirical study of smoothing techniques for language modeling, section 3; Heafield et al.
        2013, Scalable modified Kneser-Ney language model estimation, section 3 (sentence starts, unknown words).
        """
        if order < 1:
            raise ValueError(f"order must be at least 1 word, got {order}.")
        number = {w: k for k, w in enumerate(MARKS)}
        counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
        for k, line in enumerate(lines, 1):
            words = _words(line)
            if marks := {START, END}.intersection(words):
                raise ValueError(f"line {k} holds {' and '.join(sorted(marks))}; each line gets its marks here, leave them out.")
            if words:
                ids = [number[START], *(number.setdefault(w, len(number)) for w in words), number[END]]
                for n, count in enumerate(counts):
                    count.update(zip(*(ids[j:] for j in range(n + 1)), strict=False))
        if not counts[0]:
            raise ValueError("an n-gram model needs at least one sentence with a word to learn from, got none.")
        counts = [count for count in counts if count]  # no sentence may be as long as the order
        model = cls(number, len(counts))
        for n in range(len(counts) - 1):
            before = Counter(g[1:] for g in counts[n + 1])  # how many words stand before; nothing stands before <s>
            counts[n] = Counter({g: c if g[0] == model.begin else before[g] for g, c in counts[n].items()})
        counts[0][(model.unknown,)] += 0
        del counts[0][(model.begin,)]
        levels = [_Level({}, {(): 1 / (len(number) - 1)})]
        for count in counts:
            levels.append(_level(count, levels[-1].p))
        levels[1].p[(model.begin,)] = 1e-99  # ARPA's zero
        for level, longer in pairwise([*levels[1:], _Level({}, {})]):
            for g, p in level.p.items():
                model.add(g, math.log(p), math.log(longer.weight.get(g, 1.0)))
        return model

    @classmethod
    def read(cls, path: str | Path) -> NGram:
        """Read an ARPA file, .gz as well. Where it has no <unk>, an unknown word has the log10-probability -100, as in KenLM.

        Raises:
            ValueError: it is no ARPA file or damaged; the message names the line.
        """
        path = Path(path)
        if path.is_file():
            return cls._of(path, lambda: _lines(path))
        held = list(_lines(path))  # of a pipe, which can be read once
        return cls._of(path, lambda: iter(held))

    @classmethod
    def parse(cls, text: str) -> NGram:
        """What `text` gave. Raises as `read`."""
        lines = text.split("\n")
        return cls._of("this text", lambda: enumerate(lines, 1))

    @classmethod
    def _of(cls, path: Path | str, lines: Callable[[], Iterator[tuple[int, str]]]) -> NGram:
        words = dict.fromkeys(row.words[0] for row in takewhile(lambda row: row.n == 1, _rows(path, lines())))
        if not {START, END} <= words.keys():
            raise ValueError(f"{path}: {START} and {END} must be among the 1-grams. Was it learned from sentences?")
        model = cls(words | {UNKNOWN: None}, 1)
        if UNKNOWN not in words:
            model.add((model.unknown,), -100 * LOG10)
        for row in _rows(path, lines()):
            where, model.order = f"{path}, line {row.line}", row.n
            try:
                model.add([model.number[w] for w in row.words], row.logp * LOG10, row.backoff * LOG10)
            except KeyError as e:
                raise ValueError(f"{where}: {e.args[0]!r} is no 1-gram.") from None
            except ValueError as e:
                raise ValueError(f"{where}: {' '.join(row.words)!r} cannot be entered: {e}.") from None
        return model

    def write(self, path: str | Path) -> None:
        """Write an ARPA file; compressed if it is called .gz. Raises as `text`."""
        text = self.text()
        with _open(Path(path), "wt") as f:
            f.write(text)

    def text(self) -> str:
        """The model as the text of an ARPA file.

        Raises:
            ValueError: a word holds white space, which separates words there.
        """
        if bad := next((w for w in self.words if w.split() != [w]), None):
            raise ValueError(f"an ARPA file cannot hold the word {bad!r}: white space separates words.")
        gram = [""]
        for k in range(1, len(self.logp)):
            gram.append(f"{gram[self.context[k]]} {self.words[self.last[k]]}".lstrip())
        by: defaultdict[int, list[int]] = defaultdict(list)
        for k in range(1, len(gram)):
            by[self.length[k]].append(k)
        made = ["\\data\\\n", *(f"ngram {n}={len(by[n])}\n" for n in range(1, self.order + 1))]
        for n in range(1, self.order + 1):
            made.append(f"\n\\{n}-grams:\n")
            for k in by[n]:
                end = f"\t{self.backoff[k] / LOG10:.7g}" if n < self.order else ""
                made.append(f"{self.logp[k] / LOG10:.7g}\t{gram[k]}{end}\n")
        return "".join((*made, "\n\\end\\\n"))


class _Level(NamedTuple):
    """Interpolated probabilities of the n-grams of one length, and the weight that their contexts give to shorter ones."""

    weight: dict[Gram, float]
    p: dict[Gram, float]


def _level(count: Counter[Gram], shorter: dict[Gram, float]) -> _Level:
    D = discounts(count.values())
    total: defaultdict[Gram, int] = defaultdict(int)
    freed: defaultdict[Gram, float] = defaultdict(float)
    for g, c in count.items():
        total[g[:-1]] += c
        freed[g[:-1]] += D[min(c, 3)]
    weight = {v: freed[v] / total[v] for v in total}
    p = {g: (c - D[min(c, 3)]) / total[g[:-1]] + weight[g[:-1]] * shorter[g[1:]] for g, c in count.items()}
    return _Level(weight, p)


def discounts(counts: Iterable[int]) -> tuple[float, float, float, float]:
    """What is taken from counts of 0, 1, 2, and 3 or more: Chen & Goodman 1998, equation 26, or `FALLBACK` where it fails."""
    t = Counter(counts)
    if all(t[k] for k in (1, 2, 3, 4)):
        y = t[1] / (t[1] + 2 * t[2])
        one, two, three = (k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3))
        if min(one, two, three) > 0:
            return 0.0, one, two, three
    return 0.0, *FALLBACK


def _words(line: str | Sequence[str]) -> Sequence[str]:
    return line.split() if isinstance(line, str) else line


class _Row(NamedTuple):
    """An n-gram of a file; log10."""

    line: int
    n: int
    logp: float
    words: list[str]
    backoff: float


def _rows(path: Path | str, lines: Iterator[tuple[int, str]]) -> Iterator[_Row]:
    """The n-grams of an ARPA file, one by one."""
    k, n, seen = 0, -1, 0  # n: -1 before the header, 0 in it, then the length of the n-grams
    sizes: list[int] = []

    def wrong(what: str) -> ValueError:
        return ValueError(f"{path}, line {k}: {what}")

    for k, line in lines:
        if n < 0:  # comments may stand before the header
            n += line == "\\data\\"
        elif line.startswith("\\") and sizes:
            if n and seen != sizes[n - 1]:
                raise wrong(f"the header says {sizes[n - 1]} {n}-grams, but there are {seen}.")
            n, seen = n + 1, 0
            if line != (expected := f"\\{n}-grams:" if n <= len(sizes) else "\\end\\"):
                raise wrong(f"expected {expected}, got {line[:60]}")
            if n > len(sizes):
                return
        elif line and not n:
            name, _, size = line.partition("=")
            if name.split() != ["ngram", str(len(sizes) + 1)] or not size.strip().isdecimal():
                raise wrong(f"expected 'ngram {len(sizes) + 1}=' and how many there are, got {line[:60]!r}.")
            sizes.append(int(size))
        elif line:
            seen += 1
            fields = [field for field in line.replace("\t", " ").split(" ") if field]
            try:
                logp, backoff = float(fields[0]), float(fields[n + 1]) if len(fields) == n + 2 else 0.0
            except ValueError:
                logp = backoff = math.nan
            if not (n < len(fields) < n + 3 and logp <= 0 and backoff < math.inf):
                raise wrong(f"expected a log10-probability, {n} words and perhaps a log10 of a weight, got {line[:60]!r}.")
            yield _Row(k, n, logp, fields[1 : n + 1], backoff)
    raise wrong("the file ends without \\data\\." if n < 0 else "the file ends without \\end\\; it was cut short.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with _open(path, "rt") as f:
            for k, line in enumerate(f, 1):
                yield k, line.strip(" \t\r\n")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise ValueError(f"{path} is no ARPA file: {e}") from None


def _open(path: Path, mode: str) -> IO[str]:
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, mode, encoding="utf-8", newline="\n"))
    return path.open(mode, encoding="utf-8", newline="\n")

"""Laws of the data: every refusal names file and line, each pair is in one batch, and no part of a split knows another's sentences."""

from __future__ import annotations

import gzip
import os
import threading
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshort.apps.translate.data import Drop, Pair, buckets, lines, read, said, screen, split
from translate_grammar import grammar

TEXTS = [("one", "eins"), ("  two\u2028three\x0b ", "zwei\x85 drei"), ("", "vier"), ("fünf 五 \x1c \r x", "“5”")]
LENGTHS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60)


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def plain(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [pair[:2] for pair in pairs]


# read


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("pack", [lambda b: b, gzip.compress, lambda b: b"\xef\xbb\xbf" + b], ids=["plain", "gzip", "bom"])
def test_files_and_lists_say_the_same(tmp_path, end, last, pack):
    sides = [end.join(side) + end * last for side in zip(*TEXTS, strict=True)]
    a, b = (put(tmp_path / name, pack(side.encode())) for name, side in zip(("a.en", "b.de"), sides, strict=True))
    both = put(tmp_path / "both", pack((end.join("\t".join(pair) for pair in TEXTS) + end * last).encode()))
    for made in (read(a, str(b)), read(both), read(TEXTS), read(*map(list, zip(*TEXTS, strict=True))), read(read(both))):
        assert plain(made) == TEXTS
    assert [pair.where for pair in read(a, b)] == [f"{a}:{k}" for k in range(1, 5)]
    assert [pair.where for pair in read(read(both))] == [f"{both}:{k}" for k in range(1, 5)]
    assert [pair.where for pair in read(TEXTS)] == [f"pair {k}" for k in range(1, 5)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_is_read_from_its_first_line(pack):
    content = "".join(f"{k}\tzahl {k}\n" for k in range(5000)).encode()
    out, into = os.pipe()
    with open(into, "wb") as pipe:
        writer = threading.Thread(target=lambda: (pipe.write(pack(content)), pipe.close()))
        writer.start()
        made = read(f"/dev/fd/{out}")
        writer.join()
    os.close(out)
    assert plain(made) == [(str(k), f"zahl {k}") for k in range(5000)]


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=8), max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_line_ends_with_its_end_and_nothing_else(tmp_path_factory, texts):
    path = put(tmp_path_factory.getbasetemp() / "any", "\n" + "".join(f"{text}\n" for text in texts))
    assert list(lines(path)) == ["", *texts]


def test_columns_are_chosen_or_two(tmp_path):
    path = put(tmp_path / "x.tsv", "1\tone\teins\tx\n2\ttwo\tzwei\n")
    assert plain(read(path, columns=(2, 3))) == [("one", "eins"), ("two", "zwei")]
    assert plain(read(path, columns=(3, 2))) == [("eins", "one"), ("zwei", "two")]
    with pytest.raises(ValueError, match=r"x.tsv:1: must have 2 columns, got 4. Say which: columns=\(1, 2\)"):
        read(path)
    with pytest.raises(ValueError, match=r"x.tsv:2: must have 4 columns with tabs between, got 3: '2\\ttwo"):
        read(path, columns=(1, 4))
    with pytest.raises(ValueError, match=r"columns must be two numbers, the first column is 1, got \(0, 1\)"):
        read(path, columns=(0, 1))
    with pytest.raises(TypeError, match="columns are those of one file with tabs"):
        read(path, path, columns=(1, 2))


def test_a_blank_line_is_a_pair_of_nothing(tmp_path):
    path = put(tmp_path / "x.tsv", "one\teins\n\ntwo\tzwei\n\n")
    pairs = read(path)
    assert plain(pairs) == [("one", "eins"), ("", ""), ("two", "zwei"), ("", "")]
    kept, drops = screen(pairs, [1, 0, 1, 0], [1, 0, 1, 0])
    assert kept.tolist() == [0, 2]
    assert said(drops) == f"Left out: 2 with an empty side ({path}:2: both, {path}:4: both)."


# refused


def test_what_cannot_be_read_is_named(tmp_path):
    good = put(tmp_path / "good", "a\nb\nc\n")
    for content, message in {
        b"a\nb\xe9 c\nd\n": r"bad:2: is not UTF-8: byte 0xE9 at 1. Convert the file",
        b"\xff\xfea\x00\n\x00": r"bad:1: is not UTF-8: byte 0xFF at 0",
        b"\xef\xbb\xbf\xe9\n": r"bad:1: is not UTF-8: byte 0xE9",
        b"a\nb\n": r"good has 3 lines, .*bad has 2: line n of both must belong together. The first without a partner is .*good:3",
        b"a\n" * 5: r"good has 3 lines, .*bad has 5: .* The first without a partner is .*bad:4",
        b"": r"good has 3 lines, .*bad has 0",
        b"\n \n\t\n": r"good with .*bad: must hold one or more sentence pairs, there is none",
        gzip.compress(b"a\nb\nc\n" * 99)[:-9]: r"bad: is a damaged gzip file",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(good, put(tmp_path / "bad", content))
    for content, message in {
        "one\teins\ntwo zwei\n": r"bad:2: must have 2 columns with tabs between, got 1: 'two zwei'",
        "": r"bad: must hold one or more sentence pairs, there is none",
        "\n\n": r"bad: must hold one",
        "\tx\ny\t\n": r"bad: must hold one",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(put(tmp_path / "bad", content))
    with pytest.raises(ValueError, match="must be a text file, is a folder"):
        read(tmp_path, good)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file"):
        read(good, tmp_path / "nowhere")


def test_lists_that_are_not_pairs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"source has 2 lines, target has 1: .* is source:2"):
        read(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="the list of pairs: must hold one"):
        read([])
    with pytest.raises(TypeError, match="pair 2 must be a source and a target, got 'ab'"):
        read([("a", "b"), "ab"])
    with pytest.raises(TypeError, match="text 2 must be a str, got NoneType"):
        read([("a", None)])
    with pytest.raises(TypeError, match="two files or two lists, got one of each"):
        read(["a"], put(tmp_path / "x", "a\n"))


# screen


@given(LENGTHS, st.integers(1, 30), st.sampled_from([1, 1.5, 3, np.inf]))
@settings(max_examples=200)
def test_what_is_kept_can_be_learned_from_and_the_rest_is_named(lengths, longest, ratio):
    pairs = [Pair("a" * s, "b" * t, f"x:{k}") for k, (s, t) in enumerate(lengths, 1)]
    kept, drops = screen(pairs, [s for s, _ in lengths], [t for _, t in lengths], longest=longest, ratio=ratio)
    assert Counter([*(pairs[k] for k in kept), *(d.pair for d in drops)]) == Counter(pairs)
    assert [pairs[k] for k in kept] == [
        pair for pair in pairs
        if 1 <= len(pair.source) <= longest and 1 <= len(pair.target) <= longest
        and 1 / ratio <= len(pair.source) / len(pair.target) <= ratio
    ]  # fmt: skip
    assert sum(int(part.split()[0]) for part in said(drops).removeprefix("Left out: ").split("; ") if drops) == len(drops)


def test_what_is_left_out_is_said():
    pairs = [Pair(f"{k}", f"{k}", f"f:{k}") for k in range(1, 8)]
    kept, drops = screen(pairs, [3, 0, 9, 1, 9, 9, 9], [3, 4, 9, 4, 9, 9, 0], longest=8, ratio=3)
    assert kept.tolist() == [0]
    assert kept.dtype == np.int64
    assert said(drops) == (
        "Left out: 3 longer than 8 tokens (f:3: 9 and 9, f:5: 9 and 9, f:6: 9 and 9); 2 with an empty side (f:2: source, f:7: target); "
        "1 with one side more than 3 times as long (f:4: 1 and 4)."
    )
    assert said([Drop(pair, "odd") for pair in pairs]) == "Left out: 7 odd (f:1, f:2, f:3, ...)."
    assert said([]) == "No pair is left out."
    with pytest.raises(ValueError, match="7 pairs must have as many lengths, got 7 and 1"):
        screen(pairs, [1] * 7, [1])


# buckets


@given(LENGTHS, st.integers(30, 99), st.integers(0, 9))
@settings(max_examples=200)
def test_each_pair_is_in_one_batch_that_is_not_too_large(lengths, tokens, seed):
    s, t = np.array(lengths, np.int64).reshape(-1, 2).T
    made = buckets(s, t, tokens, np.random.default_rng(seed))
    assert sorted(np.concatenate([*made, np.zeros(0, np.int64)])) == list(range(len(s)))
    for batch in made:
        assert len(batch) >= 1
        assert len(batch) * max(s[batch].max(), t[batch].max()) <= tokens
    again = buckets(s, t, tokens, np.random.default_rng(seed))
    assert [b.tolist() for b in again] == [b.tolist() for b in made]


def test_batches_are_full_alike_and_not_always_the_same():
    rng = np.random.default_rng(0)
    t = 1 + rng.gamma(6, 2.5, 20_000).astype(int)
    s = np.clip(np.round(t * rng.normal(1, 0.2, len(t))), 1, 150).astype(int)
    made = [buckets(s, t, 2000, np.random.default_rng(seed)) for seed in (1, 2)]
    for batches in made:
        assert t.sum() > 0.93 * sum(len(b) * t[b].max() for b in batches)
        assert s.sum() > 0.88 * sum(len(b) * s[b].max() for b in batches)
        means = np.array([t[b].mean() for b in batches])
        assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.25  # the short do not come first
    neighbours = [
        {frozenset(pair) for b in batches for pair in zip(b.tolist(), b[1:].tolist(), strict=False)} for batches in made
    ]
    assert len(neighbours[0] & neighbours[1]) < 0.02 * len(t)


def test_batches_that_cannot_be_are_refused():
    rng = np.random.default_rng(0)
    assert buckets([], [], 10, rng) == []
    with pytest.raises(ValueError, match="at most 10 tokens, the size of a batch; pair 1 has 3 and 11"):
        buckets([1, 3], [2, 11], 10, rng)
    with pytest.raises(ValueError, match=r"two rows of equal length, got \[2\] and \[1\]"):
        buckets([1, 2], [1], 10, rng)


# split


@given(
    st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=60),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.integers(0, 3),
)
@settings(max_examples=400)
def test_parts_share_no_sentence_and_nothing_is_lost(numbers, sizes, seed):
    """Among pairs that share sentences there are as many that do not, so that sizes can always be met."""
    pairs = [(f"s{a}", f"t{b}") for a, b in numbers] + [(f"only {k}", f"nur {k}") for k in range(sum(sizes) + 1)]
    pairs = [pairs[k] for k in np.random.default_rng(seed).permutation(len(pairs))]
    parts = split(pairs, sizes, seed)
    assert [len(part) for part in parts[1:]] == sizes
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(pairs)))
    assert all(np.array_equal(part, np.sort(part)) and part.dtype == np.int64 for part in parts)
    for side in (0, 1):
        homes = defaultdict(set)
        for n, part in enumerate(parts):
            for k in part:
                homes[pairs[k][side]].add(n)
        assert set(map(len, homes.values())) == {1}
    again = split(pairs, sizes, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_a_group_stays_whole_even_if_a_part_is_smaller_then():
    pairs = [(f"{k // 3}", f"{k}") for k in range(30)]  # ten groups of three
    for sizes, made in (([4], [27, 3]), ([5, 3], [24, 3, 3]), ([0.5], [15, 15]), ([29], [3, 27])):
        assert [len(part) for part in split(pairs, sizes)] == made
    chain = [(f"c{k // 2}", f"c{(k + 1) // 2}") for k in range(20)]  # each shares a sentence with the next, on either side
    first, part = split([*chain, *pairs], [6])
    assert set(range(20)) <= set(first.tolist())
    assert len(part) == 6


def test_sizes_are_met_and_large_groups_stay_together():
    rng = np.random.default_rng(0)
    pairs = [(f"{english} {k}", german) for english, german in grammar(3000, rng) for k in "abc"[: rng.integers(1, 4)]]
    giant = [("Hello!", f"Hallo {k}") for k in range(500)]
    pairs = [pairs[k] for k in rng.permutation(len(pairs))] + giant
    first, valid, test = split(pairs, [200, 0.1], seed=3)
    assert (len(valid), len(test)) == (200, round(0.1 * len(pairs)))
    assert set(range(len(pairs) - 500, len(pairs))) <= set(first.tolist())
    other = split(pairs, [200, 0.1], seed=4)
    assert len(set(valid.tolist()) & set(other[1].tolist())) < 50
    assert 0.4 < np.mean(valid) / len(pairs) < 0.6  # from everywhere


def test_sentences_are_the_same_whatever_their_case_and_punctuation():
    same = [
        ("Hi.", "Hallo!"),
        ("hi", "Grüß  Gott"),
        ("Yo", "grüß gott..."),
        ("yo!", "“Na”"),
        ("Ça va?", "NA"),
        ("C\u0327A VA", "wie"),
    ]
    other = [("¿?", "x1"), ("¿!", "x2"), ("hi there", "y"), ("h i", "z"), ("Hallo", "Hi")]
    for seed in range(20):
        parts = split([*same, *other], [3], seed)
        assert set(range(6)) <= set(parts[0].tolist())
        assert len(parts[1]) == 3


def test_splits_that_cannot_be_are_refused():
    pairs = [(f"{k}", f"{k}") for k in range(10)]
    for sizes in ([10], [0], [5, 0.5], [-1], [0.01], [2.5], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match=r"pairs, 1 or more, or shares in \(0, 1\), and leave some of 10, got"):
            split(pairs, sizes)
    with pytest.raises(ValueError, match=r"part 1 of 3 pairs cannot be split off: 10 pairs make 1 groups .* the largest of 10"):
        split([("same", f"{k}") for k in range(10)], [3])
    assert [len(part) for part in split(pairs, [])] == [10]

"""N-gram models: KenLM reads the same files, the formulas are written down once more, and every distribution sums to one."""

from __future__ import annotations

import gzip
import math
import os
import random
import threading
from collections import Counter

import kenlm
import numpy as np
import pytest

from longshort.apps.speech.ngram import FALLBACK, LOG10, MARKS, NGram, discounts


def corpus(sentences: int, vocabulary: int, seed: int = 0, most: int = 11) -> list[str]:
    """Sentences of words that are as unequally frequent as in a language, and depend on the word before."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, vocabulary + 1)
    shift, made = rng.integers(vocabulary, size=vocabulary), []
    for n in rng.integers(1, most + 1, sentences):
        words = [0]
        for k in rng.choice(vocabulary, n, p=p / p.sum()):
            words.append(int(k + shift[words[-1]]) % vocabulary if rng.random() < 0.7 else int(k))
        made.append(" ".join(f"w{k}" for k in words[1:]))
    return made


CORPORA = {
    "ordinary": corpus(500, 300),
    "closed": corpus(900, 20),  # no word is rare
    "tiny": ["a b", "a"],
    "one word": ["a"],
    "repeated": ["yes"] * 50 + ["no"] * 3,
}


def sentences(n: int, seed: int = 0, vocabulary: int = 310) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(rng.randrange(9))) for _ in range(n)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("lines", CORPORA.values(), ids=CORPORA)
def test_after_every_context_the_probabilities_sum_to_one(lines, order):
    model = NGram.fit(lines, order)
    states = {model.start()} | {k for k in range(len(model) + 1) if model.length[k] < order}
    states = sorted(states) if len(states) < 300 else random.Random(0).sample(sorted(states), 300)
    for state in states:
        assert sum(math.exp(model.score(state, w)[0]) for w in model.words if w != "<s>") == pytest.approx(1, abs=1e-9)


def kneser_ney(lines: list[str], order: int):
    """p(word | context) from the formulas, counted anew at each question. Context: a tuple with <s> where a sentence starts."""
    texts = [("<s>", *line.split(), "</s>") for line in lines]
    grams = {n: Counter(t[k : k + n] for t in texts for k in range(len(t) - n + 1)) for n in range(1, order + 1)}
    size = len({w for t in texts for w in t} | {"<unk>"}) - 1

    def count(g: tuple[str, ...]) -> int:
        if len(g) == order or g[0] == "<s>":
            return grams[len(g)][g] if g != ("<s>",) else 0
        return sum(longer[1:] == g for longer in grams[len(g) + 1])

    counted = {n: {g: c for g in grams[n] if (c := count(g))} for n in grams}
    taken = {n: discounts(counted[n].values()) for n in grams}

    def p(word: str, context: tuple[str, ...]) -> float:
        n = len(context) + 1
        after = {g: c for g, c in counted[n].items() if g[:-1] == context}
        shorter = p(word, context[1:]) if context else 1 / size
        if not after:
            return shorter
        c, total, D = after.get((*context, word), 0), sum(after.values()), taken[n]
        rest = sum(D[min(k, 3)] for k in after.values()) / total
        return max(c - D[min(c, 3)], 0) / total + rest * shorter

    return p


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "lines", [corpus(150, 40, most=7), CORPORA["tiny"], CORPORA["repeated"]], ids=["many", "tiny", "repeated"]
)
def test_probabilities_are_those_of_the_formulas(lines, order):
    model, p = NGram.fit(lines, order), kneser_ney(lines, order)
    for line in [*lines[:10], *lines[-2:], "w1 what w2 w3", "b a"]:
        state, context = model.start(), ("<s>",)
        for word in [*line.split(), "</s>"]:
            word = word if word in model else "<unk>"
            expected = p(word, context[max(0, len(context) - order + 1) :])
            logp, state = model.score(state, word)
            assert math.exp(logp) == pytest.approx(expected)
            context = (*context, word)


def test_discounts_are_those_of_chen_and_goodman():
    assert discounts([1] * 8 + [2] * 4 + [3] * 2 + [4] + [9] * 5) == (0, 0.5, 2 - 1.5 * 2 / 4, 3 - 2 * 1 / 2)
    assert discounts([1] * 50 + [2] * 2 + [3] * 40 + [4]) == (0, *FALLBACK)  # the second would be negative
    for counts in ([], [7, 8, 9], [1] * 9, [1, 2, 3, 5]):
        assert discounts(counts) == (0, *FALLBACK)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("name", CORPORA)
def test_kenlm_reads_what_is_written_and_scores_alike(name, order, tmp_path):
    model = NGram.fit(CORPORA[name], order)
    model.write(tmp_path / "lm.arpa")
    back, theirs = NGram.read(tmp_path / "lm.arpa"), kenlm.Model(str(tmp_path / "lm.arpa"))
    assert (back.order, len(back), set(back.words)) == (model.order, len(model), set(model.words))
    for line in sentences(300) + CORPORA[name][:50]:
        expected = theirs.score(line) * LOG10
        assert model.sentence(line) == pytest.approx(expected, abs=1e-4)
        assert back.sentence(line) == pytest.approx(expected, abs=1e-4)
        each = [logp * LOG10 for logp, _, _ in theirs.full_scores(line)]
        state, ours = back.start(), []
        for word in line.split():
            logp, state = back.score(state, word)
            ours.append(logp)
        assert [*ours, back.finish(state)] == pytest.approx(each, abs=1e-4)


def test_a_pruned_file_scores_as_in_kenlm(tmp_path):
    """3-grams whose ending 2-gram is gone, and no <unk>: as other tools write them."""
    NGram.fit(CORPORA["ordinary"], 3).write(tmp_path / "full.arpa")
    lines = (tmp_path / "full.arpa").read_text().splitlines()
    at = [lines.index(f"\\{n}-grams:") for n in (1, 2, 3)]
    contexts = {" ".join(row.split()[1:3]) for row in lines[at[2] + 1 :] if row.count("\t")}
    rng = random.Random(0)
    two = [row for row in lines[at[1] + 1 : at[2] - 1] if row.split("\t")[1] in contexts or rng.random() < 0.3]
    one = [row for row in lines[at[0] + 1 : at[1] - 1] if "<unk>" not in row]
    three = lines[at[2] + 1 : -2]
    (tmp_path / "lm.arpa").write_text("\n".join([
        "\\data\\", f"ngram 1={len(one)}", f"ngram 2= {len(two)}", f"ngram  3={len(three)}", "",
        "\\1-grams:", *one, "", "\\2-grams:", *two, "", "\\3-grams:", *three, "", "\\end\\", ""]))  # fmt: skip
    model, theirs = NGram.read(tmp_path / "lm.arpa"), kenlm.Model(str(tmp_path / "lm.arpa"))
    for line in CORPORA["ordinary"] + sentences(300):
        assert model.sentence(line) == pytest.approx(theirs.score(line) * LOG10, rel=1e-5, abs=1e-4)


def test_a_compressed_file_is_the_same_model(tmp_path):
    model = NGram.fit(CORPORA["ordinary"])
    for name in ("lm.arpa", "lm.arpa.gz"):
        model.write(tmp_path / name)
    assert gzip.decompress((tmp_path / "lm.arpa.gz").read_bytes()) == (tmp_path / "lm.arpa").read_bytes()
    plain, packed = NGram.read(tmp_path / "lm.arpa"), NGram.read(str(tmp_path / "lm.arpa.gz"))
    assert plain.logp == packed.logp
    assert plain.next == packed.next


def test_words_are_any_strings(tmp_path):
    lines = [["a", " ", "ß", "日本"], ["\\x", " ", "a"]]
    model = NGram.fit(lines, 2)
    assert model.sentence(lines[0]) > model.sentence(["ß", "a", "日本", " "])
    with pytest.raises(ValueError, match=r"cannot hold the word ' '"):
        model.write(tmp_path / "lm.arpa")
    NGram.fit(["\\x é 日本 \u00a0"], 2).write(tmp_path / "lm.arpa")
    assert {"\\x", "é", "日本", *MARKS} == set(NGram.read(tmp_path / "lm.arpa").words)


def test_learned_sentences_are_likelier_than_their_words_in_disorder():
    rng, lines = random.Random(0), CORPORA["ordinary"]
    model = NGram.fit(lines)
    mixed = [rng.sample(line.split(), len(line.split())) for line in lines]
    assert model.perplexity(lines) < 0.7 * model.perplexity(mixed) < 0.7 * model.perplexity(["what is this"] * 9)
    assert model.perplexity(lines) == pytest.approx(
        math.exp(-sum(map(model.sentence, lines)) / sum(len(line.split()) + 1 for line in lines)))  # fmt: skip
    assert math.isnan(model.perplexity([]))


def test_sentence_order_does_not_matter_and_empty_lines_do_not_count():
    lines = CORPORA["ordinary"]
    a, b = NGram.fit(lines), NGram.fit(["", *reversed(lines), "  "])
    for line in sentences(50):
        assert a.sentence(line) == pytest.approx(b.sentence(line))


def test_a_word_in_any_context_backs_off_to_itself():
    model = NGram.fit(CORPORA["ordinary"])
    _, state = model.score(model.start(), "never heard of")
    assert model.score(state, "w1")[0] - model.unigram("w1") == pytest.approx(model.backoff[state])
    assert model.unigram("never heard of") == model.unigram("<unk>")
    assert "w1" in model
    assert "never heard of" not in model


def test_there_must_be_something_to_learn_from():
    for lines in ([], ["", " "]):
        with pytest.raises(ValueError, match="at least one sentence with a word"):
            NGram.fit(lines)
    with pytest.raises(ValueError, match=r"line 2 holds </s> and <s>; each line gets its marks here"):
        NGram.fit(["a", "<s> a </s>"])
    with pytest.raises(ValueError, match="order must be at least 1 word, got 0"):
        NGram.fit(["a"], 0)


GOOD = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1\t<unk>
-99\t<s>\t-0.3
-0.5\t</s>
-0.4\ta\t-0.2

\\2-grams:
-0.1\t<s> a
-0.2\ta </s>

\\end\\
"""
BAD = {
    "not ARPA": (GOOD, "hello\nyou\n", r"line 2: the file ends without \\data\\"),
    "empty": (GOOD, "", r"line 0: the file ends without \\data\\"),
    "cut": ("\\end\\\n", "", r"line 14: the file ends without \\end\\; it was cut short"),
    "header": ("ngram 2=2", "ngram 3=2", r"line 3: expected 'ngram 2=' and how many there are, got 'ngram 3=2'"),
    "size": ("ngram 2=2", "ngram 2=x", r"line 3: expected 'ngram 2='"),
    "no sizes": ("ngram 1=4\nngram 2=2\n", "", r"line 3: expected 'ngram 1=' and how many there are, got '..1-grams:'"),
    "fewer": ("-0.2\ta </s>\n", "", r"line 14: the header says 2 2-grams, but there are 1"),
    "section": ("\\2-grams:", "\\3-grams:", r"line 11: expected \\2-grams:, got \\3-grams:"),
    "number": ("-0.2\ta </s>", "x\ta </s>", r"line 13: expected a log10-probability, 2 words.*got 'x\\ta </s>'"),
    "positive": ("-0.2\ta </s>", "0.2\ta </s>", r"line 13: expected a log10-probability"),
    "nan": ("-0.2\ta </s>", "nan\ta </s>", r"line 13: expected a log10-probability"),
    "short": ("-0.2\ta </s>", "-0.2\ta", r"line 13: expected a log10-probability"),
    "long": ("-0.2\ta </s>", "-0.2\ta b c d", r"line 13: expected a log10-probability"),
    "weight": ("-0.4\ta\t-0.2", "-0.4\ta\tinf", r"line 9: expected a log10-probability"),
    "stranger": ("-0.2\ta </s>", "-0.2\ta b", r"line 13: 'b' is no 1-gram"),
    "twice": ("-0.2\ta </s>", "-0.2\t<s> a", r"line 13: '<s> a' cannot be entered: it is there twice"),
    "no end": ("-0.5\t</s>", "-0.5\tb", r"<s> and </s> must be among the 1-grams"),
}


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "lm")
    writer = threading.Thread(target=(tmp_path / "lm").write_text, args=(GOOD,))
    writer.start()
    assert NGram.read(tmp_path / "lm").sentence("a") == NGram.parse(GOOD).sentence("a")
    writer.join()


def test_comments_spaces_and_line_ends_are_taken_as_they_come(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_bytes(("a comment\n\n" + GOOD.replace("\t", "   ").replace("\n", " \r\n")).encode())
    assert NGram.read(path).sentence("a") == pytest.approx(-0.3 * LOG10)


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_file_is_refused_with_its_line(case, tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(GOOD)
    assert NGram.read(path).sentence("a") == pytest.approx(-0.3 * LOG10)
    old, new, message = BAD[case]
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=message) as e:
        NGram.read(path)
    assert str(path) in str(e.value)


def test_an_n_gram_needs_its_context(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(GOOD.replace("ngram 2=2", "ngram 2=2\nngram 3=1").replace("\\end\\", "\\3-grams:\n-1\ta a a\n\n\\end\\"))
    with pytest.raises(ValueError, match=r"line 17: 'a a a' cannot be entered: its context 'a a' is no 2-gram"):
        NGram.read(path)


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b"no gzip" + b, lambda b: b[:30] + b"\0\1\2" + b[33:]])
def test_a_damaged_archive_is_refused(damage, tmp_path):
    path = tmp_path / "lm.arpa.gz"
    path.write_bytes(damage(gzip.compress(GOOD.encode())))
    with pytest.raises(ValueError, match="is no ARPA file"):
        NGram.read(path)
    plain = tmp_path / "lm.arpa"
    plain.write_bytes(b"\\data\\\n\xff\xfe\xff")
    with pytest.raises(ValueError, match="is no ARPA file"):
        NGram.read(plain)


def test_a_text_is_a_file():
    model = NGram.fit(["a b c", "a c", "b"], 3)
    again = NGram.parse(model.text())
    assert again.text() == model.text()
    assert again.sentence("a b d") == pytest.approx(model.sentence("a b d"), abs=1e-5)
    with pytest.raises(ValueError, match="this text, line 3: "):
        NGram.parse("\\data\\\nngram 1=3\nngram 3=1\n")

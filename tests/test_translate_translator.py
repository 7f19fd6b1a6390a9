"""A translator from text to text, on a toy language it learns in seconds: the laws that hold whatever it has learned."""

import json
import math
import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

import longshort
from longshort.apps.translate import Translator, decoding, metrics, translator, tuning
from longshort.apps.translate.confidence import Calibration
from longshort.apps.translate.data import Pair
from longshort.apps.translate.decode import Search
from longshort.apps.translate.decoding import TOGETHER, Decoding
from longshort.apps.translate.evaluation import ranks
from longshort.apps.translate.shortlist import ROUNDS, shortlist
from longshort.apps.translate.task import TranslateTask
from longshort.apps.translate.text import Glossary
from longshort.apps.translate.translation import Alternative, Translation
from longshort.apps.translate.translator import DEFAULT, ENOUGH
from longshort.apps.translate.tuning import PENALTIES
from longshort.apps.translate.vocabulary import EOS
from longshort.cell import Cell
from longshort.process import own_randomness, seed_all
from longshort.train import Training
from translate_grammar import NOUNS, VERBS, Phrase, grammar, say

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"pieces": 200, "embed": 48, "hidden": 48, "decode": 48, "encoder_layers": 1, "decoder_layers": 1, "heads": 2,
         "dropout": 0.1, "dropout_embed": 0.1, "dropout_output": 0.1, "dropout_word": 0.0, "weight_drop": 0.0, "sampling": 0.05,
         "rdrop": 0.0, "tokens": 1000, "longest": 60, "shortlist": 60}  # fmt: skip
TINY = SMALL | {"embed": 16, "hidden": 16, "decode": 16}
FAST = Training(steps=300, lr=8e-3, warmup=0.1, evaluate=300, average=0.97)
BRIEF = replace(FAST, steps=4, evaluate=2, weight_decay=0.0)


def told(rng):
    """My old dog can call the cat: mein alter Hund kann die Katze anrufen."""
    who, whom = (
        Phrase(str(rng.choice(["the", "my"])), str(rng.choice(["", "old", "small"])), NOUNS[int(rng.integers(6))], 1)
        for _ in "ab"
    )
    return say(who, whom, VERBS[(0, 1, 5)[int(rng.integers(3))]], str(rng.choice(["plain", "question"])),
               str(rng.choice(["present", "can"])))  # fmt: skip


PAIRS = [Pair(*p) for p in grammar(1700, np.random.default_rng(0), told)]
TRAIN, VALID, TEST = PAIRS[:1500], PAIRS[1500:1550], PAIRS[1550:]
TEXTS = [p.source for p in TEST]


@pytest.fixture(scope="module")
def learned(one_thread):
    """Trained in some seconds."""
    return Translator(training=FAST, **SMALL).fit(TRAIN, VALID)


def brief(**asked) -> Translator:
    """Hardly trained at all."""
    how = asked.pop("training", BRIEF), asked.pop("cell", Cell())
    return Translator(training=how[0], cell=how[1], **TINY | asked).fit(TRAIN[:60], VALID[:4])


def same(a: Translation, b: Translation) -> bool:
    """Bit by bit, the attention too."""
    return a == b and np.array_equal(a.attention, b.attention)


def all_of(translator: Translator, texts: list[str], **how) -> list[Translation]:
    return [t for _, made in translator.explain_each(texts, **how) for t in made]


# it learns


def test_sentences_that_it_has_never_seen(learned):
    made = learned.evaluate(TEST)
    assert made.scores["BLEU"].value > 95
    assert 1 < made.perplexity < 1.5
    assert learned.scores[0].metrics["BLEU"] > 95
    fast = learned.evaluate(TEST, fast=True)
    assert fast.scores["BLEU"].value > 95


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    files = [brief().save(tmp_path / f"{k}.safetensors").read_bytes() for k in range(2)]
    assert files[0] == files[1]
    assert brief(training=replace(BRIEF, seed=1)).save(tmp_path / "c.safetensors").read_bytes() != files[0]


def test_a_model_is_one_file(learned, tmp_path):
    path = learned.save(tmp_path / "m.safetensors")
    for again in (longshort.load(path), Translator.load(path)):
        assert again.config == learned.config
        assert (again.length_penalty, again.calibration, again.scores) == (
            learned.length_penalty,
            learned.calibration,
            learned.scores,
        )
        for how in ({}, {"fast": True}):
            assert all(map(same, all_of(again, TEXTS[:20], **how), all_of(learned, TEXTS[:20], **how)))
        assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


# texts


def test_what_comes_in_is_what_goes_out(learned):
    one, two = (learned.translate(t) for t in TEXTS[:2])
    assert isinstance(one, str)
    assert learned.translate(TEXTS[:2]) == [one, two] == list(learned.each(iter(TEXTS[:2])))
    assert learned.translate([]) == []
    assert learned.translate(["", TEXTS[0]]) == ["", one]
    for blank in ("", "\n", "  \n\t\n "):
        assert learned.translate(blank) == blank
        assert learned.explain(blank) == []
    assert learned.translate(f"\n\n  {TEXTS[0]}\r\n{TEXTS[1]}\n") == f"\n\n  {one}\r\n{two}\n"
    assert learned.translate("  ".join(TEXTS[0].split())) == one


@pytest.mark.parametrize("how", [{}, {"beam": 1}, {"alternatives": 3, "coverage_penalty": 0.2}, {"fast": True},
                                 {"sample": True, "alternatives": 2, "seed": 3}, {"glossary": {"dog": ["Köter", "Hündchen"]}}], ids=str)  # fmt: skip
def test_neither_batch_nor_order_changes_a_bit(learned, how):
    texts = TEXTS[:70] + [TEXTS[0]] * (TOGETHER + 2)  # more of one length than go together
    whole = all_of(learned, texts, **how)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = all_of(learned, [texts[k] for k in order], **how)
    for k, at in enumerate(order):
        assert same(shuffled[k], whole[at])
    for k in range(0, 72, 4):
        assert same(learned.explain(texts[k], **how)[0], whole[k])
    assert all(same(t, whole[0]) for t in whole[70:])


def test_nor_does_the_number_of_threads(learned):
    want = all_of(learned, TEXTS[:20])
    torch.set_num_threads(2)
    try:
        assert all(map(same, all_of(learned, TEXTS[:20]), want))
    finally:
        torch.set_num_threads(1)


# what can be asked of a translation


def test_terms_of_a_glossary_prefixes_and_what_is_kept_appear(learned):
    for text, truth in [p[:2] for p in TEST if "dog" in p.source][:10]:
        made = learned.explain(text, glossary={"dog": "Vogel"})[0]
        assert made.met
        assert "Vogel" in made.text
        assert "Vogel" not in learned.translate(text)
        assert learned.translate(text, glossary={"tiger": "Vogel"}) == learned.translate(text)
        assert learned.translate(text, prefix="Meine kleine Katze").startswith("Meine kleine Katze")
        right = " ".join(truth.split()[:2])
        assert learned.translate(text, prefix=right) == truth
    made = learned.translate("My dog can see {name} now.", keep=True)
    assert "{name}" in made
    assert "cat" in learned.translate("My dog can see the cat.", keep=["cat"])
    assert "cat" in learned.translate("My dog can see the cat.", keep="cat")
    assert "Vogel" in learned.translate("My dog can see the cat.", glossary=Glossary({"dog": "Vogel"}))
    for copy in (True, False):  # what nobody has learned to write
        assert learned.translate("My dog can see the cat.", prefix="Ω 7:", copy=copy).startswith("Ω 7:")
        for text in ("My dog can see {Ωψ} now.", "My dog can see ({Ωψ}).", "My dog can see <b>{Ωψ}</b>.", "My cat sees {Ω}{ψ}."):
            made = learned.explain(text, keep=True, copy=copy)[0]
            kept = [k for k in ("{Ωψ}", "<b>", "</b>", "{Ω}", "{ψ}") if k in text]
            assert made.met
            assert [k for k in kept if k not in made.text] == [], made.text
        made = learned.translate("My dog can see a tiger.", glossary={"tiger": "e\u0301  Ωψ"}, copy=copy)
        assert "é Ωψ" in made, "as a text is written: composed, one blank"


def test_the_rest_is_there_too_and_nothing_is_added(learned):
    """What is kept is many tokens long; having it is no reason to end, and no word goes on with it."""
    pairs = [(re.sub("dog|cat", "X-1234567", p.source), p.target) for p in TEST if len(re.findall("dog|cat", p.source)) == 1]
    for text, truth in pairs[:15]:
        made = learned.explain(text, keep=[r"X-\d+"])[0]
        assert made.met
        assert re.search(r"(?<!\w)X-1234567(?!\w)", made.text), made.text
        assert len(made.text.split()) >= len(truth.split()) - 1
        assert made.text[-1] == truth[-1]
    for text in TEXTS[:20]:
        made = learned.translate(text, glossary={noun.one: "Vogelhaus" for noun in NOUNS})
        assert re.search(r"(?<!\w)Vogelhaus(?!\w)", made), made


def test_a_network_that_has_seen_names_passes_on_what_is_kept_as_one(one_thread):
    """Speakers are names on both sides; where one is kept, nothing else changes."""
    who = ["Maria", "Otto", "Ivan", "Olga", "Hans"]

    def spoken(pairs, by):
        return [Pair(f"{by(k)}: {p.source}", f"{by(k)}: {p.target}") for k, p in enumerate(pairs)]

    how = SMALL | {"unknown": 0.5}
    made = Translator(training=FAST, **how).fit(spoken(TRAIN, lambda k: who[k % 5]), spoken(VALID, lambda k: who[k % 5]))
    names = ["{first  name}", "https://example.org/a?b=c", "%s", "<i>x@y.org</i>", "{{Ωψ}}"]
    texts = spoken(TEST[:40], lambda k: names[k % 5])
    plain = made.translate([f"Maria: {p.source}" for p in TEST[:40]])
    wants = [text.replace("Maria", names[k % 5]) for k, text in enumerate(plain)]
    assert np.mean([made.translate(p.source, keep=True) == want for p, want in zip(texts, wants, strict=True)]) > 0.85
    one = made.explain(texts[0].source, keep=True)[0]
    assert one.source.startswith("{first name}: ")
    assert one.source_words[0][0] == one.words[0][0] == "{first name}:"
    assert all(t.text == f"€{name}: {p.target.split(': ')[1]}" or name in t.text for name, p in zip(names, texts, strict=False)
               for t in made.explain(f"€{p.source}", keep=True))  # fmt: skip


def test_tags_stand_around_the_same_words(learned):
    for text, want in (
        ("My <b>old dog</b> can see the cat.", "Mein <b>alter Hund</b> kann die Katze sehen."),
        ("Can <i>my old dog</i> see <a href='x'>the <b>cat</b></a>?", "Kann <i>mein alter Hund</i> <a href='x'>die <b>Katze</b></a> sehen?"),
        ("<p>The man calls the child.</p>", "<p>Der Mann ruft das Kind an.</p>"),
    ):  # fmt: skip
        plain = learned.translate(re.sub("<[^>]*>", "", text))
        made = learned.explain(text, keep=True, alternatives=3)[0]
        assert re.sub("<[^>]*>", "", made.text) == plain
        assert plain != re.sub("<[^>]*>", "", want) or made.text == want
        assert made.source == text
        for other in made.alternatives:
            assert sorted(re.findall("<[^>]*>", other.text)) == sorted(re.findall("<[^>]*>", text))
    lines = "<br>\n  {name}\n<p>https://example.org {x}</p>\n\n"
    assert learned.translate(lines, keep=True) == lines, "nothing in them is translated"
    assert learned.explain(lines, keep=True) == []


def test_what_is_kept_is_not_even_composed(learned):
    made = learned.explain("My  dog can see {first  e\u0301} now.", keep=True, alternatives=3)[0]
    assert "{first  e\u0301}" in made.text
    assert all("{first  e\u0301}" in other.text for other in made.alternatives)


def test_unknown_words_are_copied(learned):
    name = "Ωψ"
    text = f"My dog can see {name}."
    assert learned.source.encode(text).count(1) >= 1
    for alternative in learned.explain(text, alternatives=5)[0].alternatives:
        assert "⁇" not in alternative.text
    assert any("⁇" in a.text or name not in a.text for a in learned.explain(text, alternatives=5, copy=False)[0].alternatives)
    for copy in (True, False):
        made = learned.explain(text, copy=copy)[0]
        assert "".join(w for w, _ in made.source_words) == made.source.replace(" ", "")  # words are what stands in the text
        assert "".join(w for w, _ in made.words) == made.text.replace(" ", "")


def test_words_are_written_out_where_characters_are_bytes():
    made = brief(fallback=True, pieces=400).explain("My dog can see Ωψ.", prefix="Ω ψ")[0]
    assert "".join(w for w, _ in made.source_words) == made.source.replace(" ", "")
    assert made.words[0][0] == "Ω"


def test_alternatives_are_different_and_ranked(learned):
    for made in all_of(learned, TEXTS[:20], alternatives=4):
        assert len({a.text for a in made.alternatives}) == len(made.alternatives) == 4
        assert made.alternatives[0].text == made.text
        scores = [a.score for a in made.alternatives]
        assert scores == sorted(scores, reverse=True)
        for a in made.alternatives:
            assert a.score == pytest.approx(Search(length_penalty=learned.length_penalty).score(a.logp, a.tokens))
    assert Decoding.of(1.0, alternatives=9).search.beam == 9  # a larger beam all by itself


def test_attention_finds_the_words(learned):
    made = learned.explain("The dog can see my cat.")[0]
    assert made.attention.shape == (len(made.pieces), len(made.source_pieces))
    np.testing.assert_allclose(made.attention.sum(1), 1, rtol=1e-5)
    assert "".join(w for w, _ in made.words) == made.text.replace(" ", "")
    assert 0 <= made.confidence <= 1
    assert json.loads(json.dumps(made.json()))["text"] == made.text
    assert all(0 <= a < len(made.source_words) and 0 <= b < len(made.words) for a, b in made.alignment())


def test_alignments_join_what_means_the_same(learned):
    """Nouns are translated word by word, and they change places in questions and at the end of clauses."""
    noun, found, all_ = {n.one: n.eins for n in NOUNS}, 0, 0
    for made in all_of(learned, TEXTS[:100]):
        source, target = ([word.rstrip(".?") for word, _ in words] for words in (made.source_words, made.words))
        pairs = {(source[a], target[b]) for a, b in made.alignment()}
        said = [word for word in source if word in noun]
        all_ += len(said)
        found += sum((w, noun[w]) in pairs for w in said)
    assert all_ > 150
    assert found / all_ > 0.8


def test_confidence_is_higher_where_the_sentence_makes_sense(learned):
    rng = np.random.default_rng(0)
    mixed = [" ".join(rng.permutation(text.rstrip(".?").split())) + text[-1] for text in TEXTS[:100]]
    good, bad = (np.array([t.confidence for t in all_of(learned, texts)]) for texts in (TEXTS[:100], mixed))
    assert np.mean(good > bad) > 0.8


def test_wishes_that_cannot_be_met_are_named(learned):
    with pytest.raises(TypeError, match=r"beem must be one of alternatives, beam, .*temperature, top_k, top_p"):
        learned.translate("a", beem=3)
    with pytest.raises(ValueError, match="beam must be at least 1, got 0"):
        learned.translate("a", beam=0)
    with pytest.raises(ValueError, match="has no shortlist"):
        brief(shortlist=0).translate(TEXTS[0], fast=True)
    with pytest.raises(TypeError, match="Translator has no field hiden; it has units, pieces"):
        Translator(hiden=3)
    with pytest.raises(ValueError, match=r"length_penalty must be at most 10, got 2000.0: 0 is none, 1 a mean\."):
        learned.translate("a", length_penalty=2000.0)
    with pytest.raises(ValueError, match=r"at most 10000 tokens: 'x x x .* has more\. Split it into lines\."):
        learned.translate(["a", "x " * 10_001])
    with pytest.raises(TypeError, match="a text must be a string, got 1"):
        brief().translate(["a", 1])
    with pytest.raises(TypeError, match="not both"):
        Translator(config=learned.config, hidden=3)
    for fresh in (Translator().translate, Translator().explain, lambda _: Translator().save("x")):
        with pytest.raises(RuntimeError, match="nothing is fitted yet"):
            fresh("a")


# scores


def test_given_translations_are_scored_in_batches(learned, monkeypatch):
    sizes, force = [], translator.force
    monkeypatch.setattr(translator, "force", lambda n, x, *how: sizes.append(len(x)) or force(n, x, *how))
    made = learned.score([TEST[0]] * (TOGETHER + 3) + TEST[:1])
    assert len({*made}) == 1
    assert sizes == [TOGETHER, 4]


def test_the_score_of_a_translation_is_its_probability(learned):
    made = all_of(learned, TEXTS[:20])
    given = learned.score([Pair(t.source, t.text) for t in made])
    for t, score in zip(made, given, strict=True):
        if learned.target.encode(t.text) == learned.target._model.piece_to_id(list(t.pieces[:-1])):
            assert score == t.logp  # the same arithmetic
        assert score == pytest.approx(t.logp, abs=0.5)
    truth = learned.score(TEST)
    assert truth == learned.score(TEST[::-1])[::-1] == [s for p in TEST for s in learned.score([p])]
    moved = learned.score([Pair(a.source, b.target) for a, b in zip(TEST, TEST[1:] + TEST[:1], strict=True)])
    assert np.mean(np.array(truth) > moved) > 0.98
    assert learned.evaluate(TEST).perplexity == pytest.approx(
        math.exp(-sum(truth) / sum(len(learned.target.encode(p.target)) + 1 for p in TEST))
    )
    task = TranslateTask(learned.config, TRAIN[:9], VALID, vocabularies=learned.vocabularies)
    assert learned.evaluate(TEST).perplexity == pytest.approx(task.perplexity(learned.fitted, TEST), rel=1e-5)


def test_an_evaluation_is_all_of_it(learned):
    made = learned.evaluate(TEST[:30], beam=1)
    assert list(made.outputs) == learned.translate(TEXTS[:30], beam=1)
    plain = json.loads(json.dumps(made.json()))
    assert plain["sentences"] == 30
    assert plain["scores"]["BLEU"]["low"] <= plain["scores"]["BLEU"]["value"] <= plain["scores"]["BLEU"]["high"]
    assert all(w["output"] != w["target"] for w in plain["worst"])
    with pytest.raises(ValueError, match="one or more"):
        learned.evaluate([])
    values = np.random.default_rng(0).integers(0, 5, 30).astype(float)
    np.testing.assert_array_equal(ranks(values), scipy.stats.rankdata(values))
    perfect = replace(made, outputs=tuple(p.target for p in made.pairs))
    assert math.isnan(perfect.agreement)


def test_the_length_penalty_is_the_one_that_suits_the_validation_pairs(learned):
    assert learned.length_penalty in tuning.PENALTIES
    own = learned.explain(TEXTS[0], alternatives=3)[0]
    assert own.score == learned.explain(TEXTS[0], alternatives=3, length_penalty=learned.length_penalty)[0].score
    texts = ["a b c d e f", "a b c d e f g h i j"]
    short, long = -3.0, -4.0  # the long one wins from 1.2 on
    assert [Search(length_penalty=p).score(short, 7) > Search(length_penalty=p).score(long, 11) for p in (0.6, 0.8)] == [
        True,
        True,
    ]
    for truth in texts:
        both = tuple(Alternative(t, logp, 0.0, len(t.split()) + 1) for t, logp in zip(texts, (short, long), strict=True))
        found = replace(own, text=texts[0], alternatives=both)
        penalty, _ = tuning.tuned(lambda texts, how, found=found: [found] * len(texts), [Pair("x", truth)] * 12, "BLEU")
        how = Search(length_penalty=penalty)
        assert max(both, key=lambda a: how.score(a.logp, a.tokens)).text == truth


# ensembles, and starting from another


def test_an_ensemble_averages_probabilities(learned, tmp_path):
    twice = learned.together(learned)
    assert twice.translate(TEXTS[:20]) == learned.translate(TEXTS[:20])
    np.testing.assert_allclose(twice.score(TEST[:20]), learned.score(TEST[:20]), rtol=1e-4, atol=1e-5)
    other = Translator(training=replace(BRIEF, seed=9), **TINY).fit(TRAIN[:60], start=learned)  # of another size
    files = [m.save(tmp_path / f"{k}.safetensors") for k, m in enumerate((learned, other))]
    both = Translator.load(*files)
    assert len(both.reader().networks) == 2
    one = Pair(TEXTS[0], "")  # a translation of no tokens: the probability of the end alone
    p, q, mean = (math.exp(m.score([one])[0]) for m in (learned, other, both))
    assert mean == pytest.approx((p + q) / 2, rel=1e-4)
    assert not learned.friends
    assert both.calibration == learned.calibration
    assert both.tune(VALID).calibration != learned.calibration
    assert both.length_penalty in PENALTIES
    for none, why in (([], "must hold one or more sentence pairs"), ([Pair("a", " ")], "the translation is empty")):
        with pytest.raises(ValueError, match=why):
            both.tune(none)
    assert len(learned.together(both, other).friends) == 3
    with pytest.raises(ValueError, match=r"a file holds one model, and this is an ensemble of 2\. Save each"):
        both.save(tmp_path / "both.safetensors")
    assert not twice.fit(TRAIN[:60]).friends
    for strange in (brief(), brief().save(tmp_path / "strange.safetensors")):
        with pytest.raises(ValueError, match=r"must have the same vocabularies, .* has others"):
            learned.together(strange)


def test_training_starts_from_another(learned, tmp_path):
    still = replace(BRIEF, lr=1e-9)
    for start in (learned, learned.save(tmp_path / "m.safetensors")):
        made = Translator(training=still, **SMALL).fit(TRAIN[:60], start=start)
        assert made.vocabularies == learned.vocabularies
        for name, v in learned.fitted.state_dict().items():
            torch.testing.assert_close(made.fitted.state_dict()[name], v, atol=1e-5, rtol=0)
    deeper = Translator(training=still, **SMALL | {"decoder_layers": 2}).fit(TRAIN[:60], start=learned)
    torch.testing.assert_close(deeper.fitted.target, learned.fitted.target, atol=1e-5, rtol=0)
    torch.testing.assert_close(deeper.fitted.decoder[0].weight_hh_l0, learned.fitted.decoder[0].weight_hh_l0, atol=1e-5, rtol=0)
    itself = Translator.load(tmp_path / "m.safetensors")
    itself.fit(TRAIN[:5], start=itself)
    few = Translator(training=still, **SMALL).fit(TRAIN[:5], start=learned)
    assert itself.shortlist.equal(few.shortlist)
    bare = few.shortlist[:, 0] != learned.shortlist[:, 0]
    assert (few.shortlist[:, 0] >= 0).equal(learned.shortlist[:, 0] >= 0), "tokens that the new pairs lack keep their entries"
    assert bare.any()
    assert deeper.fitted.bridge_h.weight.shape != learned.fitted.bridge_h.weight.shape


def test_settings_of_the_vocabularies_come_with_them():
    two = brief(shared=False, tied="output")
    made = Translator(training=BRIEF, **TINY | {"tied": "output"}).fit(TRAIN[:60], start=two)
    assert (made.config, made.vocabularies) == (two.config, two.vocabularies)
    with pytest.raises(ValueError, match="without shared=True"):
        Translator(training=BRIEF, **TINY).fit(TRAIN[:60], start=two)


def test_pairs_to_compare_with_must_have_translations(learned):
    hole = [PAIRS[0], Pair("the dog", " ", "valid.tsv:3")]
    for way in (lambda: Translator(training=BRIEF, **TINY).fit(TRAIN[:60], hole), lambda: learned.evaluate(hole)):
        with pytest.raises(ValueError, match=r"valid\.tsv:3: the translation is empty, there is nothing to compare with"):
            way()


def test_half_a_character_is_learned_and_saved(tmp_path):
    odd = Pair("the dog \ud83d", "der Hund", "list:61")
    Translator(training=BRIEF, **TINY).fit([*TRAIN[:60], odd], checkpoint=tmp_path / "run.safetensors")
    assert (tmp_path / "run.safetensors").exists()


def test_without_validation_pairs_nothing_is_left_of_those_before():
    made = brief()
    made.length_penalty, made.calibration = 0.2, replace(made.calibration, offset=9.0)
    made.fit(TRAIN[:60])
    assert (made.length_penalty, made.calibration) == (1.0, Calibration())


@pytest.mark.parametrize("at", [1, 3, 4])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch, at):
    how, path, steps, loss = replace(BRIEF, save_steps=1), tmp_path / "run.safetensors", [], TranslateTask.loss

    def killed(self, *of):
        steps.append(1)
        if len(steps) == at:
            raise RuntimeError("killed")
        return loss(self, *of)

    whole = brief(training=how).save(tmp_path / "whole.safetensors")
    made = Translator(training=how, **TINY)
    with monkeypatch.context() as m:
        m.setattr(TranslateTask, "loss", killed)
        with pytest.raises(RuntimeError, match="killed"):
            made.fit(TRAIN[:60], VALID[:4], checkpoint=path)
    made.fit(TRAIN[:60], VALID[:4], checkpoint=path, resume=True)
    assert made.save(tmp_path / "again.safetensors").read_bytes() == whole.read_bytes()


# every kind of it


@pytest.mark.parametrize("asked", [
    {"rdrop": 5.0}, {"again": False}, {"attention": "additive", "feed": True, "coverage": True}, {"attention": "dot", "heads": 1}, {"units": "unigram"},
    {"units": "char"}, {"shared": False, "tied": "output"}, {"shared": False, "tied": "none"}, {"tied": "none"}, {"tied": "output"},
    {"fallback": True, "pieces": 400}, {"decoder_layers": 2, "encoder_layers": 2, "weight_drop": 0.2}, {"feed": True}, {"metric": "chrF"},
    {"cell": Cell(projection=8)}, {"cell": Cell(layer_norm=True, peephole=True)}, {"training": replace(BRIEF, bf16=True)},
], ids=str)  # fmt: skip
def test_every_kind_trains_translates_and_is_saved(tmp_path, asked):
    made = brief(**asked)
    again = Translator.load(made.save(tmp_path / "m.safetensors"))
    whole = all_of(made, TEXTS[:6])
    assert all(map(same, all_of(again, TEXTS[:6]), whole))
    assert all(map(same, [made.explain(t)[0] for t in TEXTS[:6]], whole))
    assert all_of(made, TEXTS[:2], fast=True)
    task = TranslateTask(made.config, TRAIN[:60], cell=made.cell)
    with own_randomness(torch.device("cpu")):
        seed_all(torch.device("cpu"), BRIEF.seed, 0)
        fresh = task.model()  # as training drew it
    trained = zip(fresh.named_parameters(), made.fitted.parameters(), strict=True)
    assert [name for (name, p), q in trained if torch.equal(p, q)] == []


@pytest.mark.parametrize("shared", [True, False])
def test_a_shortlist_has_the_tokens_of_the_source_where_both_have_one_vocabulary(shared, monkeypatch):
    made, seen, real = brief(shared=shared, tied="output", shortlist=2), [], decoding.search
    monkeypatch.setattr(decoding, "search", lambda *given: (seen.append(given[-1].tolist()), real(*given))[1])
    rare = TRAIN[0].source[::-1]  # words that no word of the target goes with
    made.translate(rare, fast=True)
    (only,) = seen
    assert (set(made.source.encode(rare)) <= set(only)) == shared


def test_agreement_is_spearmans(learned):
    rng = np.random.default_rng(0)
    made = learned.evaluate([Pair(p.source, p.target if rng.random() < 0.5 else TEST[0].target) for p in TEST[:40]])
    sure = [min(t.confidence for t in one) for one in made.translations]
    each = metrics.sentences([p.target for p in made.pairs], made.outputs)
    assert len(set(sure)) > 5
    assert made.agreement == pytest.approx(scipy.stats.spearmanr(sure, each).statistic)


def test_files_and_lists_are_the_same_pairs(tmp_path):
    pairs = TRAIN[:60]
    for k, end in enumerate(("en", "de")):
        (tmp_path / f"train.{end}").write_text("".join(p[k] + "\n" for p in pairs))
    (tmp_path / "train.tsv").write_text("".join(f"{p.source}\t{p.target}\n" for p in pairs))
    made = [Translator(training=BRIEF, **TINY).fit(given).save(tmp_path / "m.safetensors").read_bytes()
            for given in (pairs, (tmp_path / "train.en", str(tmp_path / "train.de")), tmp_path / "train.tsv")]  # fmt: skip
    assert made[0] == made[1] == made[2]


def test_what_was_left_out_is_said():
    with pytest.warns(UserWarning, match=r"^Left out: 1 "):
        made = Translator(training=BRIEF, **TINY).fit([*TRAIN[:60], Pair("", "nichts", "list:61")])
    assert [d.pair.where for d in made.dropped] == ["list:61"]


# which tokens may translate which


@pytest.mark.parametrize(("pairs", "size"), [(1, 3), (40, 1), (40, 7), (150, 100)])
def test_a_shortlist_is_model_1_of_ibm(pairs, size):
    rng, read, written = np.random.default_rng(0), 23, 31
    lengths = rng.integers(0, 9, (pairs, 2)) + np.array([1, 0])
    source, target = ([rng.integers(4, n, k).tolist() for k in lengths[:, at]] for at, n in enumerate((read, written)))
    p = defaultdict(lambda: 1.0)
    for _ in range(ROUNDS):
        counts, totals = defaultdict(float), defaultdict(float)
        for s, t in zip(source, target, strict=True):
            for y in t:
                norm = sum(p[x, y] for x in [*s, EOS])
                for x in [*s, EOS]:
                    counts[x, y] += p[x, y] / norm
                    totals[x] += p[x, y] / norm
        p = defaultdict(float, {(x, y): v / totals[x] for (x, y), v in counts.items()})
    made = shortlist(source, target, read, written, size)
    assert made.shape == (read, size)
    assert made.dtype == np.int32
    for x in range(read):
        row = made[x][made[x] >= 0].tolist()
        if x == EOS:
            often = np.bincount([y for t in target for y in t], minlength=written)
            assert [often[y] for y in row] == sorted(often, reverse=True)[: len(row)]
            continue
        of = {y: v for (a, y), v in p.items() if a == x}
        assert len(set(row)) == len(row) == min(size, len(of))
        assert set(row) <= set(of)
        np.testing.assert_allclose([of[y] for y in row], sorted(of.values(), reverse=True)[: len(row)], rtol=1e-9)
        assert (made[x][len(row) :] == -1).all()


@pytest.mark.parametrize("asked", [None, DEFAULT, replace(DEFAULT, seed=1)], ids=["nothing", "the same", "another seed"])
def test_few_pairs_get_more_passes_unless_somebody_says_how_many(asked, monkeypatch):
    tuned, seen = brief(), []

    def stop(task, training, **_):
        seen.append(training.epochs * len(task.batches("train", 0)))
        raise KeyboardInterrupt

    monkeypatch.setattr(translator, "train", stop)
    for start in (None, tuned):
        with pytest.raises(KeyboardInterrupt):
            Translator(training=asked, **TINY | {"tokens": 200}).fit(TRAIN[:60], start=start)
    again = Translator(training=asked, **TINY | {"tokens": 200})
    for pairs in (TRAIN[:60], TRAIN):  # the second time as the first
        with pytest.raises(KeyboardInterrupt):
            again.fit(pairs)
    assert seen.pop() < 2 * ENOUGH
    assert seen.pop() == seen[0]
    assert again.training == (asked or DEFAULT)
    anew, further = seen
    assert anew >= ENOUGH if asked is None else anew < ENOUGH / 2
    assert further < ENOUGH / 2  # who goes on from a model has learned enough
    capped = Translator(**TINY | {"tokens": 61})  # many batches
    with pytest.raises(KeyboardInterrupt):
        capped.fit(TRAIN)
    assert capped.training == DEFAULT

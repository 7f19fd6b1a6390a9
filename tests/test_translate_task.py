"""What the loop gets from translation: batches, hidden names, the loss, the scores."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from longshort import probe
from longshort.apps.translate.config import Config
from longshort.apps.translate.data import Pair
from longshort.apps.translate.task import STRANGE, TranslateTask, hidden
from longshort.apps.translate.vocabulary import BOS, EOS, PAD, UNK
from translate_grammar import grammar

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Config(pieces=150, embed=16, hidden=16, decode=16, encoder_layers=1, decoder_layers=2, heads=2, tokens=300, longest=40,
               ratio=8.0, sampling=0.1, rdrop=0.0)  # fmt: skip
PAIRS = [Pair(*p) for p in grammar(240, np.random.default_rng(0))]


def task(**fields):
    return TranslateTask(replace(SMALL, **fields), PAIRS[:200], PAIRS[200:])


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("fields", [{}, {"sampling": 0.0}, {"shared": False, "tied": "output"}, {"units": "unigram"}], ids=str)
def test_a_pass_has_every_pair_once_whole_and_is_of_its_seed_alone(fields):
    t = task(unknown=0.0, **fields)
    source, target = t.vocabularies
    batches = list(t.batches("train", 7))
    texts = []
    for x, lengths, y in batches:
        assert x.shape[1] == lengths.max()
        for row, n, wrote in zip(x.tolist(), lengths.tolist(), y.tolist(), strict=True):
            assert row[n - 1] == EOS
            assert set(row[n:]) <= {PAD}
            end = wrote.index(EOS)
            assert wrote[0] == BOS
            assert set(wrote[end + 1 :]) <= {PAD}
            texts.append((source.decode(row[: n - 1]), target.decode(wrote[1:end])))
    assert sorted(texts) == sorted((p.source, p.target) for p in t.train)
    assert all(equal(a, b) for a, b in zip(batches, t.batches("train", 7), strict=True))
    assert equal(batches[3], t.batches("train", 7)[3])  # in any order
    assert not all(a.source.shape == b.source.shape and equal(a, b) for a, b in zip(batches, t.batches("train", 8), strict=False))


def test_sampling_cuts_words_into_more_pieces():
    counts = [
        sum(int((b.target > EOS).sum()) for b in task(unknown=0.0, sampling=p).batches("train", 1)) for p in (0.0, 0.1, 0.5)
    ]
    assert counts == sorted(set(counts))


def test_names_on_both_sides_are_hidden_at_their_rate():
    pair, rng = Pair("Maria saw Otto in 1987 on May 3.", "Maria sah Otto 1987 am 3. Mai."), np.random.default_rng(0)
    seen = [hidden(pair, 0.25, rng) for _ in range(4000)]
    for word in ("Maria", "Otto", "1987"):
        gone = [word not in p.source for p in seen]
        assert abs(np.mean(gone) - 0.25) < 0.03
        assert gone == [word not in p.target for p in seen]
    assert all("May" in p.source and "Mai" in p.target and p.source.endswith(".") for p in seen)
    assert hidden(pair, 0.0, rng) is pair
    solid = hidden(Pair("Anna saw Paris in 1987", "Annaは1987年にParisを見た"), 0.999, rng)
    assert solid[:2] == (f"{STRANGE} saw {STRANGE} in {STRANGE}", f"{STRANGE}は{STRANGE}年に{STRANGE}を見た")
    assert hidden(Pair("Ann met Anna", "Annaさん"), 0.999, rng)[:2] == (f"Ann met {STRANGE}", f"{STRANGE}さん")
    t = TranslateTask(replace(SMALL, unknown=0.5), [Pair("Maria is here", "Maria ist da")] * 50)
    drawn = t.batches("train", 0)[0]
    assert torch.equal((drawn.source == UNK).sum(1), (drawn.target == UNK).sum(1))
    assert 0 < int((drawn.source == UNK).sum()) < len(drawn.source)
    assert STRANGE not in "".join(t.vocabularies[0].pieces)


def test_the_loss_is_label_smoothed_cross_entropy_and_rdrop_adds_what_two_passes_differ_by():
    t = task(dropout=0.0, dropout_embed=0.0, dropout_word=0.0, dropout_output=0.0, weight_drop=0.0)
    torch.manual_seed(0)
    net, batch = t.model(), t.batches("train", 0)[0]
    y, truth = net(batch)
    assert len(truth) == int((batch.target[:, 1:] != PAD).sum())
    want = F.cross_entropy(net.write(y), truth, reduction="sum", label_smoothing=t.config.smoothing)
    total, elements = t.loss(net, batch)
    torch.testing.assert_close(total, want)
    assert elements == len(truth)
    same = TranslateTask(replace(t.config, rdrop=5.0), PAIRS[:200]).loss(net, batch)
    torch.testing.assert_close(same.total, want)  # two passes without dropout do not differ
    totals = []
    for weight in (1.0, 2.0, 4.0):
        noisy = TranslateTask(replace(t.config, rdrop=weight, dropout_output=0.5), PAIRS[:200])
        twice = noisy.model()
        twice.load_state_dict(net.state_dict())
        torch.manual_seed(1)
        totals.append(noisy.loss(twice, batch).total.detach())
    assert totals[0] < totals[1]
    torch.testing.assert_close(2 * (totals[1] - totals[0]), totals[2] - totals[1], rtol=1e-4, atol=0)  # linear in the weight


def test_a_trace_has_the_steps_of_one_pass():
    t = task(rdrop=3.0)
    net, batch = t.model(), t.batches("train", 0)[0]
    with probe.record(net) as seen:
        t.loss(net, batch).total.backward()
    assert len(seen["encoder.0.l0"].h) == batch.source.shape[1]
    assert len(seen["decoder.1.l0"].h) == batch.target.shape[1] - 1


def test_what_is_too_long_to_learn_from_is_too_long_to_validate_with():
    long = Pair("ship " * 60, "Schiff " * 60, "valid.en:3")
    t = TranslateTask(SMALL, PAIRS[:200], [*PAIRS[200:202], long])
    assert t.valid == PAIRS[200:202]
    assert [(d.pair, d.reason) for d in t.dropped[-1:]] == [(long, "longer than 40 tokens")]
    with pytest.raises(ValueError, match=r"there is nothing to validate with\. Left out: 1 longer than 40 tokens \(valid.en:3: "):
        TranslateTask(SMALL, PAIRS[:200], [long])


def test_the_matrix_that_writes_becomes_the_one_of_all():
    apart = task(tied="none").model()
    made = TranslateTask(SMALL, PAIRS[:200], vocabularies=task().vocabularies, start=apart.state_dict()).model()
    assert made.source is made.target
    assert torch.equal(made.target, apart.target)
    assert not torch.equal(made.target, apart.source)


def test_scores_are_in_real_units():
    t = task()
    torch.manual_seed(0)
    net = t.model().eval()
    with torch.no_grad():
        scores = t.score(net, "valid")
    assert set(scores) == {"BLEU", "chrF", "perplexity"}
    assert 0 <= scores["BLEU"] < 5
    assert 0.2 < math.log(scores["perplexity"]) / math.log(len(t.vocabularies[1])) < 2
    assert TranslateTask(SMALL, PAIRS[:50]).score(net, "valid") == {}


@pytest.mark.parametrize("target", ["eins zwei", "赤い船は家へ帰る。", "Das rote Boot segelt heim."])
def test_the_best_weights_are_told_by_what_tells_something(target):
    """BLEU counts runs of four words."""
    want = "BLEU" if "Boot" in target else "chrF"
    valid = [Pair("one", target), Pair("two", target), Pair("three", "ja")]
    assert TranslateTask(SMALL, PAIRS, valid).better == (want, "max")
    for metric in ("BLEU", "chrF"):
        assert TranslateTask(replace(SMALL, metric=metric), PAIRS, valid).better == (metric, "max")
    assert TranslateTask(SMALL, PAIRS).better == ("BLEU", "max")


def test_what_cannot_be_learned_from_is_left_out_and_named():
    odd = [*PAIRS[:20], Pair("", "x", "a:21"), Pair("one " * 200, "eins " * 200, "a:22"), Pair("one", "eins " * 40, "a:23")]
    t = TranslateTask(replace(SMALL, longest=100), odd)
    assert len(t.train) == 20
    assert [d.pair.where for d in t.dropped] == ["a:21", "a:22", "a:23"]
    with pytest.raises(ValueError, match="nothing to learn from"):
        TranslateTask(SMALL, odd[20:21], vocabularies=t.vocabularies)
    with pytest.raises(ValueError, match="only split 'train'"):
        t.batches("valid", 0)


def test_other_data_has_another_checksum():
    a, b = TranslateTask(SMALL, PAIRS[:50]), TranslateTask(SMALL, [*PAIRS[:49], PAIRS[60]])
    assert a.data() == TranslateTask(SMALL, PAIRS[:50]).data()
    assert a.data() != b.data()

"""The searches over a transducer are what their definitions say, whatever the chunks, the batch or the predictor."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from longshort.apps.speech.transduce import Beam, Greedy, advance, greedy

J, V = 6, 4


class LastTwo(nn.Module):
    """A predictor without memory: the last two tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.embed = nn.Embedding(tokens, J, dtype=torch.float64)

    def start(self, batch):
        return torch.zeros(batch, 2, dtype=torch.int64)

    def step(self, token, state):
        state = torch.stack([state[:, 1], token], 1)
        return self.embed(state[:, 0]) - 2 * self.embed(state[:, 1]), state

    def select(self, state, index):
        return state[index]

    def join(self, states):
        return torch.cat([*states])


class AllTokens(nn.Module):
    """A predictor that remembers all."""

    def __init__(self, tokens):
        super().__init__()
        self.embed, self.cell = nn.Embedding(tokens, 5, dtype=torch.float64), nn.LSTMCell(5, J, dtype=torch.float64)

    def start(self, batch):
        return torch.zeros(2, batch, J, dtype=torch.float64).unbind(0)

    def step(self, token, state):
        h, c = self.cell(self.embed(token), state)
        return 3 * h, (h, c)

    def select(self, state, index):
        return tuple(v[index] for v in state)

    def join(self, states):
        return tuple(torch.cat(v) for v in zip(*states, strict=True))


class Network(nn.Module):
    def __init__(self, predictor, tokens=V, blank=0.0, scale=2.0):
        super().__init__()
        self.predictor, self.write = predictor(tokens), nn.Linear(J, tokens, dtype=torch.float64)
        with torch.no_grad():
            self.write.weight *= scale
            self.write.bias[0] += blank

    def says(self, frame, tokens):
        """Log-probabilities at a frame after some tokens, from the beginning."""
        state = self.predictor.start(1)
        for token in (0, *tokens):
            predicted, state = self.predictor.step(torch.tensor([token]), state)
        return self.write(torch.tanh(frame + predicted[0])).log_softmax(-1).tolist()


class Bigram:
    """A scorer with an opinion about each pair of tokens and about the end."""

    def __init__(self, tokens=V, forbidden=None):
        self.table, self.forbidden = torch.randn(tokens, tokens).tolist(), forbidden

    def start(self):
        return 0

    def score(self, state, token):
        return -math.inf if token == self.forbidden else self.table[state][token], token

    def finish(self, state):
        return self.table[state][0]


class Silent:
    def start(self):
        return ()

    def score(self, state, token):
        return 0.0, state

    def finish(self, state):
        return 0.0


@pytest.fixture(params=[LastTwo, AllTokens])
def predictor(request):
    return request.param


def frames(*shape):
    return 2 * torch.randn(*shape, J, dtype=torch.float64)


def in_chunks(search, encoded, cuts):
    for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True):
        search.accept(encoded[a:b])
    return search


def same(a, b):
    """The same hypotheses in the same order, log-probabilities to rounding."""
    assert [(h.tokens, h.times) for h in a] == [(h.tokens, h.times) for h in b]
    for x, y in zip(a, b, strict=True):
        for u, v in zip((x.acoustic, x.scorer, *x.logps), (y.acoustic, y.scorer, *y.logps), strict=True):
            assert u == pytest.approx(v, rel=1e-9, abs=1e-9)


@torch.no_grad()
def exhaustive(network, encoded, scorer):
    """All token sequences with their exact log-probability, the scorer's opinion, and the most likely path's score and times."""
    made = {}
    for path in product(range(network.write.out_features), repeat=len(encoded)):
        total, tokens = 0.0, ()
        for frame, token in zip(encoded, path, strict=True):
            total += network.says(frame, tokens)[token]
            tokens += (token,) * (token > 0)
        mass, best, times = made.get(tokens, (-math.inf, -math.inf, None))
        if total > best:
            best, times = total, tuple(t for t, token in enumerate(path) if token)
        made[tokens] = max(mass, total) + math.log1p(math.exp(min(mass, total) - max(mass, total))), best, times
    found = []
    for tokens, (mass, _, times) in made.items():
        state, gain = scorer.start(), 0.0
        for token in tokens:
            increment, state = scorer.score(state, token)
            gain += increment
        found.append((tokens, times, mass, gain + scorer.finish(state)))
    return sorted(found, key=lambda f: -f[2] - f[3])


@pytest.mark.parametrize("T", [1, 2, 4])
@pytest.mark.parametrize("scorer", [None, Bigram])
def test_a_beam_without_bounds_is_exhaustive(predictor, T, scorer):
    network, encoded, scorer = Network(predictor, 3), frames(T), scorer and scorer(3)
    search = Beam(network, math.inf, scorer, token_beam=math.inf, score_beam=math.inf)
    search.accept(encoded)
    found, truth = search.finish(10**6), exhaustive(network, encoded, scorer or Silent())
    assert [(h.tokens, h.times) for h in found] == [(tokens, times) for tokens, times, _, _ in truth]
    for h, (tokens, times, mass, gain) in zip(found, truth, strict=True):
        assert (h.acoustic, h.scorer) == pytest.approx((mass, gain))
        said = [network.says(encoded[t], tokens[:k])[token] for k, (t, token) in enumerate(zip(times, tokens, strict=True))]
        assert h.logps == pytest.approx(said)
    if scorer is None:
        assert math.fsum(math.exp(h.acoustic) for h in found) == pytest.approx(1)


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("T", [0, 1, 5, 100])
def test_greedy_takes_the_best_token(predictor, T, most):
    network, encoded = Network(predictor, blank=0.5), frames(T)
    tokens, times, logps, total = [], [], [], 0.0
    with torch.no_grad():
        for t in range(T):
            for _ in range(most):
                said = network.says(encoded[t], tokens)
                total += max(said)
                if said.index(max(said)) == 0:
                    break
                tokens.append(said.index(max(said)))
                times.append(t)
                logps.append(max(said))
    (h,) = greedy(network, encoded[None], torch.tensor([T]), most)
    assert (h.tokens, h.times) == (tuple(tokens), tuple(times))
    assert (h.acoustic, *h.logps) == pytest.approx((total, *logps))
    assert T < 100 or (most == 1 or len(set(times)) < len(times))  # the case is worth its name


def test_greedy_is_a_beam_of_one(predictor):
    network, encoded = Network(predictor, blank=1.0), frames(80)
    one, beam = Greedy(network, most=1), Beam(network, 1, token_beam=math.inf)
    one.accept(encoded)
    beam.accept(encoded)
    same(one.finish(), beam.finish())
    assert len(beam.finish(5)) == 1


SEARCHES = {
    "greedy": Greedy,
    "beam": Beam,
    "narrow": lambda network: Beam(network, 2),
    "scorer": lambda network: Beam(network, 6, Bigram()),
}


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("cuts", [[], [0], [33], [5, 5, 6, 40, 67], [*range(1, 67)], [1, 18, 67]])
def test_chunks_do_not_matter(predictor, kind, cuts):
    network, encoded = Network(predictor, blank=1.0), frames(67)
    whole, parts = [], []
    for made, where in ((whole, []), (parts, cuts)):
        torch.manual_seed(1)  # the same scorer
        search = in_chunks(SEARCHES[kind](network), encoded, where)
        made += search.best(3) + search.finish(3)
        assert search.best(1) == search.best(1)  # to ask changes nothing
    same(whole, parts)


def test_greedy_in_a_batch_is_greedy_alone(predictor):
    network, encoded, lengths = Network(predictor, blank=1.0), frames(5, 40), [40, 0, 17, 1, 39]
    for row, n in zip(encoded, lengths, strict=True):
        row[n:] = float("nan")
    alone = []
    for row, n in zip(encoded, lengths, strict=True):
        search = Greedy(network)
        search.accept(row[:n])
        alone += search.finish()
    same(greedy(network, encoded, torch.tensor(lengths)), alone)
    assert greedy(network, encoded[:0], torch.tensor([])) == []


def test_streams_go_on_side_by_side(predictor):
    """Each at its own pace; what one hears is not what the others hear."""
    network, encoded = Network(predictor, blank=1.0), frames(3, 60)
    searches, at = [Greedy(network) for _ in range(3)], [0, 0, 0]
    while any(n < 60 for n in at):
        steps = [min(k, 60 - n) for k, n in zip(torch.randint(0, 9, (3,)).tolist(), at, strict=True)]
        chunk = torch.stack([torch.cat([row[n:], row])[:9] for row, n in zip(encoded, at, strict=True)])
        advance(searches, chunk, steps)
        at = [n + k for n, k in zip(at, steps, strict=True)]
    same([s.best()[0] for s in searches], greedy(network, encoded, torch.tensor([60] * 3)))


def test_a_scorer_of_zeros_changes_nothing(predictor):
    network, encoded = Network(predictor, blank=1.0), frames(50)
    same(in_chunks(Beam(network, 5), encoded, []).finish(5), in_chunks(Beam(network, 5, Silent()), encoded, []).finish(5))


def test_what_a_scorer_forbids_is_not_said(predictor):
    network, encoded = Network(predictor, blank=1.0), frames(50)
    assert 2 in in_chunks(Beam(network, 5), encoded, []).finish()[0].tokens
    found = in_chunks(Beam(network, 5, Bigram(forbidden=2)), encoded, []).finish(5)
    assert all(2 not in h.tokens and h.tokens for h in found)
    assert all(math.isfinite(h.score) for h in found)


def test_a_scorer_is_asked_once(predictor):
    """An answer is remembered; a language model may be dear."""

    class Counting(Bigram):
        asked = ()

        def score(self, state, token):
            self.asked += ((state, token),)
            return super().score(state, token)

    scorer = Counting()
    in_chunks(Beam(Network(predictor), 8, scorer), frames(60), [7])
    assert len(scorer.asked) == len(set(scorer.asked)) > 5


def test_wider_is_better(predictor):
    network, encoded = Network(predictor, blank=1.0), frames(4)
    exact = {h.tokens: h.acoustic for h in in_chunks(Beam(network, math.inf, None, math.inf, math.inf), encoded, []).best(10**6)}
    for width in (1, 2, 3, 8, 40):
        found = in_chunks(Beam(network, width), encoded, []).best(100)
        assert len(found) <= width
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert len({h.tokens for h in found}) == len(found)
        assert all(h.acoustic <= exact[h.tokens] + 1e-9 for h in found)  # some of the paths, none twice
    assert found[0].acoustic == pytest.approx(max(exact.values()))


def test_what_has_left_the_beam_is_let_go(predictor):
    """However long the sound, only hypotheses in the beam hold tensors, and only their ancestors are kept."""
    search = in_chunks(Beam(Network(predictor, blank=1.0), 4), frames(400), [*range(7, 400, 7)])
    seen = [search.beam[0]]
    while seen[0].parent:
        seen = [seen[0].parent]
    for node in seen:
        seen += node.children.values()
    assert {id(n) for n in seen if hasattr(n, "memory")} == {id(n) for n in search.beam}
    assert all(n.live or n.children for n in seen)
    assert len(seen) <= len(search.best()[0].tokens) + 100


def test_float32_and_half():
    network, encoded = Network(LastTwo, blank=1.0), frames(30)
    exact = in_chunks(Beam(network), encoded, []).best()[0]
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.5)):
        found = in_chunks(Beam(network.to(dtype)), encoded.to(dtype), []).best()[0]
        assert found.acoustic == pytest.approx(exact.acoustic, rel=tolerance)


def test_what_is_wrong_is_said(predictor):
    network, other = Network(predictor), Network(predictor)
    other.predictor = None
    for make in (Greedy, Beam):
        with pytest.raises(ValueError, match=r"this network is no transducer: it has no predictor"):
            make(other)
        with pytest.raises(ValueError, match=r"encoded must be \[(B, )?T, J\] with J = 6, got \[(1, )?3, 5\]"):
            make(network).accept(torch.zeros(3, 5))
        sick = frames(40)
        sick[21, 2] = float("nan")
        with pytest.raises(ValueError, match="what the encoder says at step 21 leads to NaN"):
            in_chunks(make(network), sick, [20])
    with pytest.raises(ValueError, match="most must be at least 1 token per step, got 0"):
        greedy(network, frames(1, 2), torch.tensor([2]), most=0)
    with pytest.raises(ValueError, match=r"frames must be 0 to T = 4, got \[4, 5\]"):
        greedy(network, frames(2, 4), torch.tensor([4, 5]))
    for bound in ("width", "token_beam", "score_beam"):
        with pytest.raises(ValueError, match=f"{bound} must be at least [01], got -1; math.inf is no bound"):
            Beam(network, **{bound: -1})

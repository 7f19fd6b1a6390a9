"""The network of translation: its loss, its attention, its numbers against a plain loop, and that no sentence sees another."""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.apps.translate.attention import Attention
from longshort.apps.translate.config import Config
from longshort.apps.translate.decode import Search, search
from longshort.apps.translate.losses import smoothed
from longshort.apps.translate.model import Batch, Memory, Network, State
from longshort.apps.translate.steps import Steps, prepared
from longshort.apps.translate.task import pad
from longshort.cell import Cell
from longshort.engine import cpu

pytestmark = pytest.mark.usefixtures("one_thread")
V = 37
DRY = {"dropout_embed": 0.0, "dropout_word": 0.0, "dropout": 0.0, "dropout_output": 0.0, "weight_drop": 0.0}
SMALL = Config(embed=7, hidden=5, decode=12, encoder_layers=2, decoder_layers=2, heads=3, again=False, **DRY)
KINDS = [{"attention": "dot"}, {"attention": "general"}, {"attention": "additive"}, {"attention": "general", "feed": True},
         {"attention": "additive", "feed": True, "coverage": True}, {"again": True},
         {"attention": "additive", "again": True, "feed": True, "coverage": True}]  # fmt: skip
SIZES = [
    {"residual": False, "heads": 1},
    {"decoder_layers": 3, "encoder_layers": 1},
    {"hidden": 6, "embed": 12, "decoder_layers": 1},
    {"again": True, "decoder_layers": 3},
    {"again": True, "decoder_layers": 1, "heads": 1},
]
CELLS = [Cell(projection=6), Cell(layer_norm=True, peephole=True), Cell(coupled=True, zoneout=(0.1, 0.2))]


def network(cell: Cell = Cell(), source: int = V, **asked) -> Network:  # noqa: B008
    """Weights that are large enough for everything to count."""
    torch.manual_seed(0)
    made = Network(replace(SMALL, **asked), cell, source, V).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.4)
    return made


def sentences(*lengths: int) -> list[list[int]]:
    return [torch.randint(4, V, (n,)).tolist() for n in lengths]


def leaves(what) -> list[Tensor]:
    """The tensors in a memory or a state; an empty one where there is none."""
    parts = [torch.empty(0) if part is None else part for part in what]
    return [v for part in parts for v in (part if isinstance(part, tuple) else (part,))]


def steps(net: Network | Steps, tokens: Tensor, memory: Memory) -> tuple[Tensor, State, Tensor]:
    """Log-probabilities [B, T, V], the last state, attention [B, T, S], made step by step."""
    state, logps, seen = net.start(memory), [], []
    for t in range(tokens.shape[1]):
        logp, state, weights = net.step(tokens[:, t], state, memory)
        logps.append(logp)
        seen.append(weights)
    return torch.stack(logps, 1), state, torch.stack(seen, 1)


# the loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(("n", "v", "e"), [(1, 1, 1), (127, 5, 3), (128, 63, 8), (129, 100, 1), (300, 2, 7)])
def test_the_smoothed_loss_is_torchs(n, v, e, smoothing):
    y, weight, bias = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((n, e), (v, e), (v,)))
    truth = torch.randint(v, (n,))
    want = F.cross_entropy(F.linear(y, weight, bias), truth, reduction="sum", label_smoothing=smoothing)
    got = smoothed(y, weight, bias, truth, smoothing)
    torch.testing.assert_close(got, want)
    for a, b in zip(*(torch.autograd.grad(1.7 * x, (y, weight, bias)) for x in (got, want)), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(smoothed(y.float(), weight.float(), bias.float(), truth, smoothing), want.float())


@pytest.mark.parametrize(("smoothing", "rdrop"), [(0.0, 0.0), (0.1, 5.0), (0.9, 0.3)])
@pytest.mark.parametrize(("n", "v", "e"), [(1, 1, 1), (127, 5, 3), (129, 100, 1), (300, 2, 7)])
def test_two_passes_are_held_together_by_their_divergence(n, v, e, smoothing, rdrop):
    y, z, weight, bias = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((n, e), (n, e), (v, e), (v,)))
    truth = torch.randint(v, (n,))
    p, q = (F.log_softmax(F.linear(x, weight, bias), -1) for x in (y, z))
    apart = (F.kl_div(q, p, reduction="sum", log_target=True) + F.kl_div(p, q, reduction="sum", log_target=True)) / 2
    want = (smoothed(y, weight, bias, truth, smoothing) + smoothed(z, weight, bias, truth, smoothing)) / 2 + rdrop / 2 * apart
    got = smoothed(y, weight, bias, truth, smoothing, z, rdrop)
    torch.testing.assert_close(got, want)
    of = y, z, weight, bias
    for a, b in zip(*(torch.autograd.grad(1.7 * x, of, retain_graph=True) for x in (got, want)), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(
            smoothed(*(x.float() for x in (y, weight, bias)), truth, smoothing, z.float(), rdrop), want.float()
        )


def test_the_smoothed_loss_survives_great_logits_and_nothing_at_all():
    y, weight, truth = 1e4 * torch.randn(40, 3), torch.randn(9, 3), torch.randint(9, (40,))
    got = smoothed(y, weight, torch.zeros(9), truth, 0.1)
    torch.testing.assert_close(got, F.cross_entropy(y @ weight.T, truth, reduction="sum", label_smoothing=0.1))
    y = torch.zeros(0, 3, requires_grad=True)
    for again in (None, y):
        smoothed(y, weight, torch.zeros(9), truth[:0], 0.1, again, 3.0).backward()
        assert y.grad is not None
        assert y.grad.shape == (0, 3)


@pytest.mark.parametrize("rdrop", [None, 3.0])
def test_under_autocast_the_smoothed_loss_is_near_and_of_its_types(rdrop):
    y, z, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((200, 16), (200, 16), (50, 16), (50,)))
    truth, more = torch.randint(50, (200,)), [] if rdrop is None else [z]
    exact = [v.double() for v in (weight, bias)]
    want = smoothed(y.double(), *exact, truth, 0.1, *(v.double() for v in more), rdrop=rdrop or 0.0).float()
    with torch.autocast("cpu", torch.bfloat16):
        got = smoothed(y.bfloat16(), weight, bias, truth, 0.1, *(v.bfloat16() for v in more), rdrop=rdrop or 0.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=5e-3, atol=0)
    near, true = (torch.autograd.grad(x, (y, weight, bias, *more)) for x in (got, want))
    for a, b in zip(near, true, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.02 * b.norm()


# attention


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("heads", [1, 2, 6])
@pytest.mark.parametrize("kind", ["dot", "general", "additive", "coverage"])
def test_attention_is_a_plain_loop(kind, heads, T):
    B, S, M, A = 3, 5, 7, 12
    cover = kind == "coverage"
    config = Config(attention="additive" if cover else kind, heads=heads, decode=A, coverage=cover, feed=cover)
    a = Attention(config, M, A).double()
    if cover:
        nn.init.normal_(a.cover)
    memory, query, had = (torch.randn(*s, dtype=torch.float64) for s in ((B, S, M), (B, T, A), (B, S)))
    lengths, W = [5, 1, 3], A // heads
    blank = torch.arange(S) >= torch.tensor(lengths)[:, None]
    got = a(query, *a.remember(memory), blank, had if cover else None)
    for b, n in enumerate(lengths):
        keys, values = a.key(memory[b]), a.value(memory[b])
        q = query[b] if kind == "dot" else a.query(query[b])
        for t in range(T):
            means = []
            for k in range(heads):
                own = slice(k * W, (k + 1) * W)
                scores = []
                for s in range(n):
                    if kind in ("dot", "general"):
                        scores.append(q[t, own] @ keys[s, own] / W**0.5)
                    else:
                        inner = q[t, own] + keys[s, own] + (had[b, s] * a.cover[k] if cover else 0)
                        scores.append(a.score[k] @ torch.tanh(inner))
                shares = torch.softmax(torch.stack(scores), 0)
                torch.testing.assert_close(got.context[b, t, own], shares @ values[:n, own])
                means.append(shares)
            torch.testing.assert_close(got.weights[b, t, :n], torch.stack(means).mean(0))
            assert not got.weights[b, t, n:].any()


# the network


def plain(net: Network, source: list[int], target: list[int]) -> tuple[Tensor, Tensor]:
    """Logits [T, V] and attention [T, S] of one sentence, written down step by step with torch's LSTM."""
    c = net.config

    def cell(layer: nn.Module, x: Tensor, h: Tensor, s: Tensor, end: str = "l0") -> tuple[Tensor, Tensor]:
        p = (getattr(layer, f"{k}_{end}") for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        return tuple(v[0] for v in torch._VF.lstm_cell(x[None], (h[None], s[None]), *p))

    zero = net.bias.new_zeros(c.hidden)
    xs = [net.source[k] * c.embed**0.5 for k in source]
    for layer in net.encoder:
        ends, sides = [], []
        for end, order in (("l0", range(len(xs))), ("l0_reverse", reversed(range(len(xs))))):
            h, s, made = zero, zero, {}
            for t in order:
                made[t] = h, s = cell(layer, xs[t], h, s, end)
            ends.append((h, s))
            sides.append([made[t][0] for t in range(len(xs))])
        ys = [torch.cat(both) for both in zip(*sides, strict=True)]
        xs = [y + x for x, y in zip(xs, ys, strict=True)] if c.residual and ys[0].shape == xs[0].shape else ys
    h, s = (torch.cat(v) for v in zip(*ends, strict=True))
    hs = [*torch.tanh(net.bridge_h(h)).view(c.decoder_layers, -1)]
    cs = [*net.bridge_c(s).view(c.decoder_layers, -1)]
    memory = torch.stack(xs)[None]
    keys, values = net.attention.remember(memory)
    fed, had, logits, seen = net.bias.new_zeros(c.decode), net.bias.new_zeros(len(xs)), [], []
    for token in target:
        x = net.target[token] * c.embed**0.5
        inner, below = torch.cat([x, fed]) if c.feed else x, x
        for k, layer in enumerate(net.decoder):
            hs[k], cs[k] = cell(layer, inner, hs[k], cs[k])
            below = hs[k] + below if c.residual and hs[k].shape == below.shape else hs[k]
            if not k:
                read = net.attention(hs[0][None, None], keys, values, None, had[None] if c.coverage else None)
            inner = torch.cat([below, read.context[0, 0]])
        answers, weights = [read.context[0, 0]], read.weights[0, 0]
        if c.again:
            more = net.again(hs[-1][None, None], *net.again.remember(memory), None)
            answers, weights = [*answers, more.context[0, 0]], (weights + more.weights[0, 0]) / 2
        made = fed = torch.tanh(net.readout(torch.cat([below, *answers, x])))
        had = had + weights
        table = net.target if net.output is None else net.output
        logits.append(table @ (net.narrow(made) if c.feed else made) + net.bias)
        seen.append(weights)
    return torch.stack(logits), torch.stack(seen)


@pytest.mark.parametrize("asked", [*KINDS, *SIZES, {"tied": "output"}, {"tied": "none", "feed": True}], ids=str)
@torch.no_grad()
def test_the_network_is_its_description(asked):
    """Sentences of many lengths in one padded batch, against one sentence and one step at a time by torch's own LSTM."""
    net = network(**asked).double()
    source, target = sentences(4, 1, 9), sentences(3, 6, 1)
    batch = pad(source, target)
    memory = net.remember(batch.source, batch.lengths)
    y, _, weights = net.run(batch.target[:, :-1], net.start(memory), memory)
    logits = net.write(y)
    for b, (s, t) in enumerate(zip(source, target, strict=True)):
        want, seen = plain(net, [*s, 3], [2, *t])
        torch.testing.assert_close(logits[: len(t) + 1, b], want)
        torch.testing.assert_close(weights[b, : len(t) + 1, : len(s) + 1], seen)
    read, truth = net(batch)
    assert truth.tolist() == [t[k] for k in range(7) for t in ([*t, 3] for t in target) if k < len(t)]
    want = [F.cross_entropy(plain(net, [*s, 3], [2, *t])[0], torch.tensor([*t, 3]), reduction="sum")
            for s, t in zip(source, target, strict=True)]  # fmt: skip
    torch.testing.assert_close(smoothed(read, net.table, net.bias, truth, 0.0), sum(want))


@pytest.mark.parametrize("cell", [Cell(), *CELLS], ids=repr)
@pytest.mark.parametrize("asked", KINDS, ids=str)
@torch.no_grad()
def test_step_by_step_and_all_at_once_are_the_same(asked, cell):
    net = network(cell, **asked)
    source, tokens = torch.randint(4, V, (4, 6)), torch.randint(4, V, (4, 8))
    memory = net.remember(source, torch.full((4,), 6))
    assert memory.blank is None
    y, end, weights = net.run(tokens, net.start(memory), memory)
    for one in (net, Steps(net)):
        logp, state, seen = steps(one, tokens, memory)
        torch.testing.assert_close(logp, F.log_softmax(net.write(y), -1).transpose(0, 1), rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(seen, weights, rtol=1e-5, atol=2e-6)
        for a, b in zip(leaves(state), leaves(end), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)
        assert state.fed.shape == (4, (cell.projection or 12) if net.config.feed else 0)
        if net.config.coverage:
            torch.testing.assert_close(state.coverage, seen.sum(1))
        for only in (torch.tensor([3, 1, 17]), torch.tensor([5])):
            some, _, _ = one.step(tokens[:, 0], net.start(memory), memory, only)
            torch.testing.assert_close(some, F.log_softmax(net.write(y[0])[:, only], -1), rtol=1e-5, atol=2e-6)


# who stands beside whom


@pytest.mark.parametrize("cell", [Cell(), *CELLS], ids=repr)
@pytest.mark.parametrize("asked", KINDS, ids=str)
def test_in_training_a_sentence_does_not_see_the_others_nor_its_padding(asked, cell):
    """Neither in the loss nor in the gradients."""
    net = network(cell, **asked)
    source, target = sentences(3, 11, 1, 6), sentences(5, 2, 7, 1)
    alone = [pad([s], [t]) for s, t in zip(source, target, strict=True)]
    grads = [torch.zeros_like(p) for p in net.parameters()]
    for k, one in enumerate([*alone, pad(source, target)]):
        y, truth = net(one)
        total = smoothed(y, net.table, net.bias, truth, 0.1)
        made = torch.autograd.grad(total, [*net.parameters()])
        if k < len(alone):
            grads = [a + b for a, b in zip(grads, made, strict=True)]
    for a, b in zip(grads, made, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)
    with torch.no_grad():
        memory = net.remember(*pad(source, target)[:2])
        logp, _, seen = steps(net, pad(source, target).target[:, :-1], memory)
        for k, one in enumerate(alone):
            T, S = one.target.shape[1] - 1, one.source.shape[1]
            own, _, weights = steps(net, one.target[:, :-1], net.remember(*one[:2]))
            torch.testing.assert_close(logp[k, :T], own[0], rtol=1e-6, atol=4e-6)
            torch.testing.assert_close(seen[k, :T, :S], weights[0], rtol=1e-6, atol=2e-6)
            assert not seen[k, :, S:].any()


@pytest.mark.parametrize("cell", [Cell(), *CELLS], ids=repr)
@pytest.mark.parametrize("asked", [*KINDS, *SIZES], ids=str)
@pytest.mark.parametrize("wide", [False, True])
@torch.no_grad()
def test_in_a_search_a_sentence_has_the_same_bits_beside_any_others(asked, cell, wide):
    S, size = (33, {"hidden": 40, "decode": 72, "embed": 31}) if wide else (5, {})  # where products of matrices are cut up
    net = network(cell, **size | asked)
    source, tokens = torch.randint(4, V, (9, S)), torch.randint(4, V, (9, 4))
    memory = net.remember(source, torch.full((9,), S))
    for one in (net, Steps(net)):
        want = steps(one, tokens, memory)
        for B in range(1, 10):
            rows = torch.randperm(9)[:B]
            for held in (net.remember(source[rows], torch.full((B,), S)), memory.rows(rows)):
                assert all(torch.equal(a, b) for a, b in zip(leaves(held), leaves(memory.rows(rows)), strict=True))
                logp, state, weights = steps(one, tokens[rows], held)
                assert torch.equal(logp, want[0][rows])
                assert torch.equal(weights, want[2][rows])
                assert all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(want[1].rows(rows)), strict=True))


def test_rows_are_rows_of_everything():
    net = network(attention="additive", feed=True, coverage=True)
    batch = pad(sentences(3, 5, 2), sentences(1, 1, 1))
    memory = net.remember(batch.source, batch.lengths)
    twice = memory.rows(torch.tensor([2, 0, 2, 1]))
    _, state, _ = net.step(torch.tensor([4, 5, 6]), net.start(memory), memory)
    _, again, _ = net.step(torch.tensor([6, 4, 6, 5]), net.start(twice), twice)
    for a, b in zip(leaves(state.rows(torch.tensor([2, 0, 2, 1]))), leaves(again), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert torch.equal(b[0], b[2])


@torch.no_grad()
def test_a_search_goes_the_short_way_where_the_kernels_take_the_network(monkeypatch):
    net = network()

    def short() -> bool:
        with prepared([net]) as (one,):
            assert isinstance(one, Steps) or one is net
            assert bool(net.decoder[0]._held) is (one is net)  # then its layers share what they make of their weights
            return one is not net

    assert short()
    with torch.enable_grad():
        assert short()  # a search wants no gradient, whoever asks for it
    for part in (net, net.decoder[1]):
        part.train()
        assert not short()  # dropout may be wanted
        net.eval()
    for name, value in (("observer", object()), ("engine", "reference")):  # who looks on sees the steps; a named one runs
        setattr(net.decoder[1], name, value)
        assert not short()
        setattr(net.decoder[1], name, getattr(net.decoder[0], name))
    assert short()
    net.double()
    assert not short()
    net.float()
    monkeypatch.setattr(cpu, "native", None)
    assert not short()


@pytest.mark.parametrize("asked", [*KINDS, *SIZES], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@torch.no_grad()
def test_a_search_finds_on_the_short_way_what_it_finds_on_the_other(asked, device):
    """Also where tensors are made on another device unless one is named."""
    net, source, only = network(**asked), torch.randint(4, V, (5, 6)), torch.arange(2, 20)
    quick = Steps(net)
    for how in (Search(beam=1), Search(beam=4, alternatives=3)):
        for some in (only, None, only):
            want = search([net], source, how, shortlist=some)
            torch.set_default_device(device)
            try:
                got = search([quick], source, how, shortlist=some)
            finally:
                torch.set_default_device(None)
            for mine, theirs in zip(got, want, strict=True):
                assert [h.tokens for h in mine] == [h.tokens for h in theirs]
                assert [h.logp for h in mine] == pytest.approx([h.logp for h in theirs], rel=1e-4, abs=1e-5)


# what the configuration says


def test_tied_matrices_are_one_parameter():
    sizes = {}
    for tied in ("all", "output", "none"):
        net = network(tied=tied)
        assert (net.source is net.target) == (tied == "all")
        assert (net.table is net.target) == (tied != "none")
        sizes[tied] = sum(p.numel() for p in net.parameters())
    assert sizes["none"] - sizes["output"] == sizes["output"] - sizes["all"] == V * SMALL.embed
    assert network(tied="output", source=11).source.shape == (11, SMALL.embed)


CHANGES = {"embed": 9, "hidden": 6, "decode": 9, "encoder_layers": 1, "decoder_layers": 1, "residual": False, "attention": "dot",
           "heads": 1, "again": True, "coverage": True, "feed": True, "tied": "none", "dropout_embed": 0.3, "dropout_word": 0.3, "dropout": 0.3,
           "dropout_output": 0.3, "weight_drop": 0.3}  # fmt: skip
ELSEWHERE = {"units", "pieces", "shared", "fallback", "sampling", "unknown", "smoothing", "rdrop", "tokens", "longest", "ratio",
             "shortlist", "metric"}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(Config) if f.name not in ELSEWHERE])
def test_every_setting_of_the_network_counts(name):
    batch = pad(sentences(6, 3), sentences(4, 5))
    more = {"attention": "additive", "feed": True} if name == "coverage" else {}
    made = []
    for value in (getattr(SMALL, name), CHANGES[name]):
        net = network(**more | {name: value}).train()
        if name == "tied":
            assert net.output is None or value == "none"
        torch.manual_seed(1)
        y, _ = net(batch)
        made.append((sum(p.numel() for p in net.parameters()), y.detach().double().sum().item()))
    assert made[0] != made[1]
    if name.startswith("dropout") or name in ("weight_drop", "residual"):
        assert made[0][0] == made[1][0]


def test_heads_must_fit_the_projection():
    with pytest.raises(ValueError, match="heads must divide the cell's projection = 8, got 3"):
        network(Cell(projection=8))


def test_dropout_takes_whole_words_and_single_numbers_and_keeps_the_mean():
    net = network(embed=40, dropout_word=0.3, dropout_embed=0.2).train()
    x = net.embed(torch.full((50, 40), 5), net.target).detach() / (net.target[5] * 40**0.5).detach()
    gone = (x == 0).all(-1)
    assert abs(gone.double().mean() - 0.3) < 0.06
    left = x[~gone]
    assert abs((left == 0).double().mean() - 0.2) < 0.02
    torch.testing.assert_close(left[left != 0], torch.full((int((left != 0).sum()),), 1 / (0.7 * 0.8)), rtol=1e-3, atol=0)


def test_a_batch_is_starts_tokens_ends_and_padding():
    made = pad([[5, 6], [7]], [[8], [9, 10, 11]])
    assert made.source.tolist() == [[5, 6, 3], [7, 3, 0]]
    assert made.lengths.tolist() == [3, 2]
    assert made.target.tolist() == [[2, 8, 3, 0, 0], [2, 9, 10, 11, 3]]
    assert isinstance(made, Batch)

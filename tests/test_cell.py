"""Each variant falls back to the plain LSTM as its law says; its table of shapes is what step needs; bad fields are refused."""

import dataclasses

import pytest
import torch

from laws import VARIANTS, Case, same
from longshort.cell import Cell, Masks, State, step
from longshort.engine import Call, run

PLAIN = Cell()


def plain_case(**kw):
    return Case.make(PLAIN, "reference", **kw)


def of(case, cell, params=None, masks=None):
    """The same case with another variant and more parameters."""
    return dataclasses.replace(case, cell=cell, params=case.params | (params or {}), call=case.call._replace(masks=masks))


def block(params, cell, gate, H=5):
    """Views of the rows of one gate in each tensor that has gate rows."""
    n = cell.gates.index(gate)
    return {k: v.unflatten(0, (-1, H))[n] for k, v in params.items() if k != "weight_hr" and k != "weight_ch"}


def test_infinite_forget_bias_is_no_forget_gate():
    case = plain_case()
    block(case.params, PLAIN, "f")["bias_ih"].fill_(1e4)
    rows = torch.cat([torch.arange(5), torch.arange(10, 20)])  # i g o
    without = {k: v[rows] for k, v in case.params.items()}
    same(case.run(), dataclasses.replace(case, cell=Cell(forget=False), params=without).run())


def test_zero_peepholes_are_none():
    case = plain_case()
    seeing = of(case, Cell(peephole=True), {"weight_ch": torch.zeros(3, 5, dtype=torch.float64)})
    same(case.grads(), seeing.grads())


def test_coupled_is_plain_with_opposite_gates():
    case = Case.make(Cell(coupled=True), "reference")
    f = {k: v[:5] for k, v in case.params.items()}
    plain = {k: torch.cat([-f[k], v]) for k, v in case.params.items()}
    same(case.run(), dataclasses.replace(case, cell=PLAIN, params=plain).run())


@pytest.mark.parametrize("scale", [0.5, 10.0])
def test_layer_norm_ignores_scale(scale):
    case = Case.make(Cell(layer_norm=True), "reference")
    case.params["weight_ih"] *= 300  # far above the epsilon
    scaled = case.params | {k: case.params[k] * scale for k in ("weight_ih", "bias_ih")}
    same(case.run(), dataclasses.replace(case, params=scaled).run(), atol=1e-6)


def test_layer_norm_is_that_of_torch():
    """Line (1) and (7) written with torch.nn.LayerNorm, gains 1."""
    cell, H = Cell(layer_norm=True), 5
    case = Case.make(cell, "reference", T=1)
    p = case.params | {k: torch.ones_like(v) for k, v in case.params.items() if k.startswith("gain")}
    wide, narrow = torch.nn.LayerNorm(4 * H).double(), torch.nn.LayerNorm(H).double()
    a = wide(case.call.x[0] @ p["weight_ih"].T + p["bias_ih"]) + wide(case.state.h @ p["weight_hh"].T + p["bias_hh"])
    i, f, g, o = a.chunk(4, -1)
    c = f.sigmoid() * case.state.c + i.sigmoid() * g.tanh()
    same({"c": c, "h": o.sigmoid() * narrow(c).tanh()}, dataclasses.replace(case, params=p).run())


def test_zoneout_zero_is_plain_and_one_stands_still():
    case = plain_case()
    same(case.run(), of(case, Cell(zoneout=(0.0, 0.0))).run())
    for masks in (None, Cell(zoneout=(1.0, 1.0)).draw(6, 4, 5, like=case.call.x)):
        still = of(case, Cell(zoneout=(1.0, 1.0)), masks=masks).run()
        same({"y": case.state.h.expand(6, 4, 5), "h": case.state.h, "c": case.state.c}, still)


def test_zoneout_in_evaluation_is_the_mean_over_masks():
    case = plain_case(T=1)
    cell, x = Cell(zoneout=(0.3, 0.2)), case.call.x
    mean = of(case, cell).run()
    drawn = [of(case, cell, masks=cell.draw(1, 4, 5, like=x)).run() for _ in range(3000)]
    for k in ("h", "c"):
        torch.testing.assert_close(torch.stack([d[k] for d in drawn]).mean(0), mean[k], rtol=0, atol=0.05)


@pytest.mark.parametrize("cell", [Cell(drop_h=0.0), Cell(drop_g=0.0), Cell(clip=float("inf"))])
def test_off_is_plain(cell):
    case = plain_case()
    same(case.grads(), of(case, cell).grads())


@pytest.mark.parametrize("cell", [Cell(drop_h=0.4), Cell(drop_g=0.4)])
def test_dropout_is_off_in_evaluation_and_inverted_in_training(cell):
    case = plain_case()
    same(case.run(), of(case, cell).run())
    keep = torch.ones(6, 4, 5, dtype=torch.bool)
    masks = Masks(drop_h=keep[0]) if cell.drop_h else Masks(drop_g=keep)
    scaled = dict(case.params)
    if cell.drop_h:
        scaled["weight_hh"] = scaled["weight_hh"] / 0.6
        same(dataclasses.replace(case, params=scaled).run(), of(case, cell, masks=masks).run())
    else:
        assert (of(case, cell, masks=masks).run()["c"] - case.run()["c"]).abs().max() > 1e-2


def test_drop_h_uses_one_mask_for_the_whole_sequence():
    cell = Cell(drop_h=0.5)
    case = of(plain_case(), cell)
    masks = cell.draw(6, 4, 5, like=case.call.x)
    one_by_one, state = [], case.state
    for t in range(6):
        state, _ = step(cell, case.params, case.call.x[t], state, Masks(drop_h=masks.drop_h))
        one_by_one.append(state.h)
    same({"y": torch.stack(one_by_one)}, of(case, cell, masks=masks).run())


def test_identity_projection_is_plain_and_projection_is_torchs():
    case = plain_case()
    same(
        case.grads(),
        of(case, Cell(projection=5), {"weight_hr": torch.eye(5, dtype=torch.float64)}).grads(),
        keys=["y", "dx", "dc0"],
    )
    theirs = torch.nn.LSTM(3, 5, proj_size=2, dtype=torch.float64)
    params = {k.removesuffix("_l0"): v for k, v in theirs.named_parameters()}
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    y, s, _ = run(Cell(projection=2), params, Call(x), engine="reference")
    y0, (h0, c0) = theirs(x)
    same({"y": y0, "h": h0[0], "c": c0[0]}, {"y": y, "h": s.h, "c": s.c})


def test_clip_bounds_the_cell_and_stops_its_gradient():
    case = Case.make(Cell(clip=0.1), "reference", T=1)
    out = case.grads(lambda out: out["c"].sum())
    assert out["c"].abs().max() <= 0.1
    assert (out["c"].abs() == 0.1).any()
    assert not out["dc0"][out["c"].abs() == 0.1].any()


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
@pytest.mark.parametrize("bias", [True, False])
def test_shapes_are_what_step_needs(cell, bias):
    """Every parameter in the table is used, and no other."""
    H, P = 5, cell.projection or 5
    used = set()

    class Watch(dict):
        def __getitem__(self, k):
            used.add(k)
            return super().__getitem__(k)

        def get(self, k):
            used.add(k) if k in self else None
            return super().get(k)

    table = cell.shapes(3, H, bias)
    state, gates = step(cell, Watch({k: torch.randn(s) for k, s in table.items()}), torch.randn(2, 3),
                        State(torch.zeros(2, P), torch.zeros(2, H)))  # fmt: skip
    assert used == set(table)
    assert "".join(gates) == cell.gates
    assert (state.h.shape, state.c.shape) == ((2, P), (2, H))


def test_plain_shapes_are_torchs():
    ours = Cell(projection=2).shapes(3, 5)
    theirs = {k.removesuffix("_l0"): tuple(v.shape) for k, v in torch.nn.LSTM(3, 5, proj_size=2).named_parameters()}
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
def test_twice_differentiable(cell):
    case = Case.make(cell, "reference", T=3, B=2, I=2, H=3)
    names = list(case.params)

    def f(x, h, c, *params):
        y, s, _ = run(cell, dict(zip(names, params, strict=True)), case.call._replace(x=x), State(h, c), "reference")
        return y, s.c

    leaves = [v.clone().requires_grad_() for v in (case.call.x, *case.state, *case.params.values())]
    assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("cell", [PLAIN, VARIANTS[-1]], ids=repr)
def test_under_torch_func(cell):
    """An ensemble by vmap over parameters equals its members; grad by torch.func equals autograd's; engine is 'auto'."""
    cases = [Case.make(cell, "auto") for _ in range(3)]
    x, masks, state = cases[0].call.x, cases[0].call.masks, cases[0].state
    stacked = {k: torch.stack([c.params[k] for c in cases]) for k in cases[0].params}

    def loss(params):
        return (run(cell, params, Call(x, masks=masks), state)[0] ** 2).sum()

    each = [torch.func.grad(loss)(c.params) for c in cases]
    together = torch.func.vmap(torch.func.grad(loss))(stacked)
    for n, case in enumerate(cases):
        leaf = {k: v.clone().requires_grad_() for k, v in case.params.items()}
        plain = dict(zip(leaf, torch.autograd.grad(loss(leaf), list(leaf.values())), strict=True))
        same(plain, each[n])
        same(plain, {k: v[n] for k, v in together.items()})


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_have_their_probabilities(p):
    cell, like = Cell(zoneout=(p, p), drop_h=p, drop_g=p), torch.zeros(())
    g = torch.Generator().manual_seed(3)
    masks = cell.draw(50, 40, 30, like=like, generator=g)
    again = cell.draw(50, 40, 30, like=like, generator=torch.Generator().manual_seed(3))
    for m, share in zip(masks, (1 - p, 1 - p, p, p), strict=True):
        assert abs(m.float().mean() - share) < 5 * (p * (1 - p) / m.numel()) ** 0.5
    assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))
    assert Cell().draw(5, 4, 3, like=like) is None


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"forget": 1}, TypeError, "Cell.forget must be True or False, got 1"),
        ({"zoneout": 0.1}, TypeError, "two numbers"),
        ({"zoneout": (0.1, 1.5)}, ValueError, r"zoneout\[1\] must be a probability in \[0, 1\], got 1.5"),
        ({"drop_h": 1.0}, ValueError, r"drop_h must be a probability in \[0, 1\)"),
        ({"drop_g": "much"}, TypeError, "drop_g must be a number"),
        ({"drop_g": float("nan")}, ValueError, "got nan"),
        ({"projection": 0}, ValueError, "at least 1, got 0. None means no projection"),
        ({"projection": 2.0}, TypeError, "whole number"),
        ({"clip": 0.0}, ValueError, "must be positive, got 0.0. None means no bound"),
        ({"coupled": True, "forget": False}, ValueError, "contradicts itself"),
    ],
)
def test_bad_fields(fields, error, message):
    with pytest.raises(error, match=message):
        Cell(**fields)


def test_a_cell_is_data():
    for cell in VARIANTS:
        assert Cell(**dataclasses.asdict(cell)) == cell
        assert eval(repr(cell)) == cell
        assert cell.sources[0].startswith("Hochreiter & Schmidhuber 1997")
    assert "Krueger" in Cell(zoneout=(0.1, 0.0)).sources[-1]
    assert Cell(coupled=True).gates == "fgo"
    assert Cell(forget=False, peephole=True).peepholes == "io"
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.forget = False

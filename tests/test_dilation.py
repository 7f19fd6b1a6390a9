"""A dilated layer, its states, lengths and resets are those of the definition, step by step in plain Python."""

import pytest
import torch

from laws import same
from longshort import LSTM
from longshort.cell import State, step

T, B, I, H = 11, 5, 4, 6


def by_definition(m, x, hx, lengths, resets):
    """Each step sees the state that its own d-th last step left; a reset forgets all of them."""
    hs, cs, row = [], [], 0
    for k, d in enumerate(m.dilation):
        outs = []
        for end in ("", "_reverse")[: 1 + m.bidirectional]:
            params = m.layer_params(f"_l{k}{end}")
            y, h, c = (torch.zeros(n, B, H, dtype=x.dtype) for n in (T, d, d))
            for b in range(B):
                n = T if lengths is None else int(lengths[b])
                past = [State(hx[0][row + j, b][None], hx[1][row + j, b][None]) for j in range(d)]
                for t in reversed(range(n)) if end else range(n):
                    border = t + 1 if end else t
                    if resets is not None and border < n and resets[border, b]:
                        past = [State(torch.zeros_like(s.h), torch.zeros_like(s.c)) for s in past]
                    s, _ = step(m.cell, params, x[t, b][None], past.pop(0))
                    past.append(s)
                    y[t, b] = s.h[0]
                for j in range(d):
                    h[j, b], c[j, b] = past[j].h[0], past[j].c[0]
            outs.append(y)
            hs.append(h)
            cs.append(c)
            row += d
        x = torch.cat(outs, -1)
    return {"y": x, "h": torch.cat(hs), "c": torch.cat(cs)}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [11, 4, 0, 7, 2]])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("dilation", [(1, 1), (1, 3), (4, 2), (11, 20)])
def test_by_definition(bidirectional, lengths, resets, dilation):
    m = LSTM(I, H, 2, dilation=dilation, bidirectional=bidirectional, dtype=torch.float64)
    S = (1 + bidirectional) * sum(dilation)
    x = torch.randn(T, B, I, dtype=torch.float64)
    hx = (torch.randn(S, B, H, dtype=torch.float64), torch.randn(S, B, H, dtype=torch.float64))
    r = torch.rand(T, B) < 0.2 if resets else None
    y, (h, c) = m(x, hx, lengths=lengths, resets=r)
    same(by_definition(m, x, hx, lengths, r), {"y": y, "h": h, "c": c})


@pytest.mark.parametrize("t", range(T + 1))
def test_cut_anywhere_with_dilation_and_resets(t):
    m = LSTM(I, H, 2, dilation=(2, 4), dtype=torch.float64)
    x, resets = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.1
    y, (h, c) = m(x, resets=resets)
    a, hx = m(x[:t], resets=resets[:t])
    b, (h1, c1) = m(x[t:], hx, resets=resets[t:])
    same({"y": y, "h": h, "c": c}, {"y": torch.cat([a, b]), "h": h1, "c": c1})

"""The picture of attention: what is drawn is the matrix, labels are the tokens, nothing is cut off."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from longshort.apps.translate.plot import attention


def words(letter: str, n: int) -> list[str]:
    return [f"▁{letter}{k}" + "$_^\\"[k % 4] * (k % 3) for k in range(n)]


@pytest.mark.parametrize(("T", "S"), [(1, 1), (3, 17), (40, 5), (5, 230)])
@pytest.mark.parametrize("title", ["", "Er zahlt 5 $ und_noch 3 $." * 2])
def test_the_matrix_and_its_tokens_are_drawn_whole(T, S, title):
    a = np.random.default_rng(0).dirichlet(np.ones(S), size=T)
    figure = attention(a, words("s", S), words("t", T), title)
    axis = figure.axes[0]
    assert np.array_equal(axis.images[0].get_array(), a)
    assert [t.get_text() for t in axis.get_xticklabels()] == words("s", S)
    assert [t.get_text() for t in axis.get_yticklabels()] == words("t", T)
    assert axis.yaxis_inverted()  # the first token is at the top
    rings = axis.collections[0].get_offsets()
    assert rings.tolist() == [[float(k), float(t)] for t, k in enumerate(a.argmax(1))]
    out = io.BytesIO()
    figure.savefig(out, dpi=30)
    assert out.getvalue().startswith(b"\x89PNG")
    page, drawn = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert page.x0 <= drawn.x0 < drawn.x1 <= page.x1
    assert page.y0 <= drawn.y0 < drawn.y1 <= page.y1
    if title:
        highest = max(t.get_window_extent().y1 for t in axis.get_xticklabels())
        assert figure.texts[0].get_window_extent().y0 >= highest


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\[T, S\].*got \[1, 2\] for 1 target and 3 source tokens"):
        attention([[0.5, 0.5]], ["a", "b", "c"], ["x"])
    with pytest.raises(ValueError, match="none of them 0"):
        attention(np.zeros((0, 2)), ["a", "b"], [])
    for bad in (-0.1, 1.2, np.nan):
        with pytest.raises(ValueError, match="0 to 1"):
            attention([[bad, 0.5]], ["a", "b"], ["x"])


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'longshort\[plot\]'"):
        attention([[1.0]], ["a"], ["b"])

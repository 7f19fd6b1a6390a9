"""The picture of attention: what is drawn is the matrix, labels are the tokens, nothing is cut off."""

from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import pytest

from longshort.apps.translate.plot import attention
from longshort.scripts import fonts


def words(letter: str, n: int) -> list[str]:
    return [f"▁{letter}{k}" + "$_^\\"[k % 4] * (k % 3) for k in range(n)]


@pytest.mark.parametrize(("T", "S"), [(1, 1), (3, 17), (40, 5), (5, 230)])
@pytest.mark.parametrize("title", ["", "Er zahlt 5 $ und_noch 3 $." * 2, "lang " * 2000])
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


def test_other_scripts_take_a_font_that_has_them_or_a_warning_says_so(monkeypatch):
    from matplotlib import font_manager

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts("▁the ▁Straße ▁Привет") == ["DejaVu Sans"]
        attention(np.eye(2), ["▁a", "</s>"], ["▁ß", "</s>"], "ß")
    every = font_manager.fontManager.ttflist
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    with pytest.warns(UserWarning, match="no font here has characters such as '\U00017000': install one"):
        assert fonts("a\U00017000") == ["DejaVu Sans"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fonts("\U00017000")  # that was said
    own = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    only = [f for f in every if f.name == "STIXGeneral"]
    lack = next(c for c in map(chr, font_manager.get_font(only[0].fname).get_charmap()) if ord(c) not in own and c.isprintable())
    monkeypatch.setattr(
        font_manager.fontManager, "ttflist", [font_manager.FontEntry("gone.ttf", "Gone", "normal", weight=400), *only]
    )
    assert fonts(lack) == ["DejaVu Sans", "STIXGeneral"]
    figure = attention(np.eye(1), [lack], [lack])
    assert figure.axes[0].get_xticklabels()[0].get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\[T, S\].*got \[1, 2\] for 1 target and 3 source tokens"):
        attention([[0.5, 0.5]], ["a", "b", "c"], ["x"])
    with pytest.raises(ValueError, match="none of them 0"):
        attention(np.zeros((0, 2)), ["a", "b"], [])
    for bad in (-0.1, 1.2, np.nan):
        with pytest.raises(ValueError, match="0 to 1"):
            attention([[bad, 0.5]], ["a", "b"], ["x"])


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'longshort\[plot\]'"):
        attention([[1.0]], ["a"], ["b"])

"""Writing systems: which have no spaces between words, and fonts that draw them. No torch."""

from __future__ import annotations

import re
import unicodedata
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese. For the brackets of a regular expression.
SOLID = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
ALONE = re.compile(f"[{SOLID}]")
RUN = rf"[^\W{SOLID}]+"  # letters and digits of the other scripts, up to where one of these begins

MARKS = "".join(c for c in map(chr, range(0x0E00, 0x3100)) if unicodedata.category(c)[0] == "M")  # vowels, tones, sound marks
_WORD = re.compile(rf"[{SOLID}][{MARKS}]*|[^\s{SOLID}]+[{MARKS}]*")


def words(text: str) -> list[str]:
    """What white space separates; and in scripts without spaces between words each character, with its marks, by itself."""
    return _WORD.findall(text)


def fonts(text: str) -> list[str]:
    """matplotlib's own font, and fonts of this machine with the characters that it lacks; a warning names those that none has."""
    from matplotlib import font_manager

    manager, get = font_manager.fontManager, font_manager.get_font
    own = get(font_manager.findfont(font_manager.FontProperties()))
    families, lack = [own.family_name], {ord(c) for c in text if unicodedata.category(c)[0] not in "CZ"} - set(own.get_charmap())
    others = [f for f in manager.ttflist if f.style == "normal" and f.weight == 400 and not f.name.startswith("Last Resort")]
    for font in sorted(others, key=lambda f: (f.name, f.fname)):
        if not lack:
            break
        try:
            has = lack & set(get(font.fname).get_charmap())
        except (OSError, RuntimeError):  # gone, or damaged
            continue
        if has and font.name not in families:
            families.append(font.name)
            lack -= has
    if lack:
        _warn(chr(min(lack)))
    return families


def save(figure: Figure, path: Path) -> None:
    """Write a picture. What no font has is said once, by `fonts`, and not by matplotlib for each character."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, dpi=150)


@cache
def _warn(lack: str) -> None:
    """Once, however many pictures there are."""
    warnings.warn(
        f"no font here has characters such as {lack!r}: install one that has, such as Noto Sans.", UserWarning, stacklevel=4
    )

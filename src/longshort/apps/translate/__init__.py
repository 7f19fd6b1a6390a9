"""Machine translation: `Translator().fit(("train.en", "train.de")).translate("...")`. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longshort.apps.translate.config import Config
    from longshort.apps.translate.decode import Search
    from longshort.apps.translate.decoding import Decoding
    from longshort.apps.translate.evaluation import Evaluation
    from longshort.apps.translate.task import TranslateTask
    from longshort.apps.translate.text import Glossary
    from longshort.apps.translate.translation import Translation
    from longshort.apps.translate.translator import Translator

HOMES = {"Config": "config", "Decoding": "decoding", "Evaluation": "evaluation", "Glossary": "text", "Search": "decode",
         "Translation": "translation", "TranslateTask": "task", "Translator": "translator"}  # fmt: skip
__all__ = ["Config", "Decoding", "Evaluation", "Glossary", "Search", "TranslateTask", "Translation", "Translator"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'longshort.apps.translate' has no attribute {name!r}; it offers {', '.join(__all__)}.")
    return getattr(import_module(f"longshort.apps.translate.{HOMES[name]}"), name)

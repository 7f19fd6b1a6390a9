"""Speech recognition: `Recognizer().fit("train.jsonl", "valid.jsonl").transcribe("a.wav")`. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longshort.apps.speech.config import Config
    from longshort.apps.speech.decoding import Decoding
    from longshort.apps.speech.evaluation import Evaluation
    from longshort.apps.speech.language import LanguageModel
    from longshort.apps.speech.recognizer import Recognizer
    from longshort.apps.speech.stream import Endpoint, Stream
    from longshort.apps.speech.task import SpeechTask
    from longshort.apps.speech.transcript import Transcript

HOMES = {"Recognizer": "recognizer", "Config": "config", "Decoding": "decoding", "Endpoint": "stream", "Evaluation": "evaluation",
         "LanguageModel": "language",
         "SpeechTask": "task", "Stream": "stream", "Transcript": "transcript"}  # fmt: skip
__all__ = ["Config", "Decoding", "Endpoint", "Evaluation", "LanguageModel", "Recognizer", "SpeechTask", "Stream", "Transcript"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'longshort.apps.speech' has no attribute {name!r}; it offers {', '.join(__all__)}.")
    return getattr(import_module(f"longshort.apps.speech.{HOMES[name]}"), name)

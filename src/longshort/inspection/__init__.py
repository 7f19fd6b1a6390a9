"""Looking into a model while it answers: what mattered for each answer, what gates and cells did, how far the gradient flowed; as
one interactive page. Each application says in a file of its own what its steps, answers and pictures are."""

from __future__ import annotations

from longshort.inspection.look import Inspection, inspect
from longshort.inspection.page import page
from longshort.inspection.subject import Attention, Bars, Question, Series, Sound, Subject
from longshort.inspection.verb import present

__all__ = ["Attention", "Bars", "Inspection", "Question", "Series", "Sound", "Subject", "inspect", "page", "present"]

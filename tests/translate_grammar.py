"""English with a perfect German translation, made by rules: number words, dates, and clauses whose words change place and form.

The German is a function of the English, so a model that learns the rules is right everywhere, and there is always more text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ONES, TENS, MONTHS, DAYS = ([words.split() for words in both] for both in (
    ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
     "nineteen",
     "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn "
     "neunzehn"),
    ("twenty thirty forty fifty sixty seventy eighty ninety",
     "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"),
    ("January February March April May June July August September October November December",
     "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"),
    ("Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
     "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"),
))  # fmt: skip
ORDINALS = {1: ("first", "ersten"), 2: ("second", "zweiten"), 3: ("third", "dritten"), 5: ("fifth", "fünften"), 7: ("seventh", "siebten"),
            8: ("eighth", "achten"), 9: ("ninth", "neunten"), 12: ("twelfth", "zwölften")}  # fmt: skip
ADJECTIVES = {"small": "klein", "big": "groß", "old": "alt", "young": "jung", "clever": "klug", "tired": "müd", "good": "gut",
              "new": "neu", "friendly": "freundlich", "quiet": "still"}  # fmt: skip
ADVERBS = {"today": "heute", "now": "jetzt", "often": "oft", "sometimes": "manchmal", "every day": "jeden Tag", "here": "hier"}
ASIDES = {"I know that": "ich weiß, dass", "We hope that": "wir hoffen, dass", "They say that": "sie sagen, dass"}
Pair = tuple[str, str]


class Noun(NamedTuple):
    """A noun: English in singular and plural, German likewise, and its gender: m, f or n."""

    one: str
    many: str
    eins: str
    viele: str
    gender: str


class Verb(NamedTuple):
    """A verb: I see, she sees, she saw; sie sieht, sie sehen, gesehen. `off` is the part of the German one that comes off, if any."""

    see: str
    sees: str
    saw: str
    sieht: str
    sehen: str
    gesehen: str
    off: str = ""


NOUNS = [Noun(*words.split()) for words in (
    "dog dogs Hund Hunde m", "cat cats Katze Katzen f", "horse horses Pferd Pferde n", "man men Mann Männer m",
    "woman women Frau Frauen f", "child children Kind Kinder n", "teacher teachers Lehrer Lehrer m", "sister sisters Schwester Schwestern f",
    "girl girls Mädchen Mädchen n", "friend friends Freund Freunde m", "doctor doctors Arzt Ärzte m", "mouse mice Maus Mäuse f",
)]  # fmt: skip
VERBS = [Verb(*(words.split(", "))) for words in (
    "see, sees, saw, sieht, sehen, gesehen", "love, loves, loved, liebt, lieben, geliebt",
    "look for, looks for, looked for, sucht, suchen, gesucht", "find, finds, found, findet, finden, gefunden",
    "understand, understands, understood, versteht, verstehen, verstanden", "call, calls, called, ruft, rufen, gerufen, an",
    "pick up, picks up, picked up, holt, holen, geholt, ab", "invite, invites, invited, lädt, laden, geladen, ein",
    "introduce, introduces, introduced, stellt, stellen, gestellt, vor", "look at, looks at, looked at, sieht, sehen, gesehen, an",
)]  # fmt: skip


def grammar(n: int, rng: np.random.Generator, *kinds: Callable[[np.random.Generator], Pair]) -> list[Pair]:
    """Distinct sentence pairs.

    Args:
        n: how many.
        rng: draws.
        *kinds: makers of pairs, drawn alike: number, date, clause. None takes all three.

    Returns:
        (English, German) each.
    """
    made: dict[str, str] = {}
    while len(made) < n:
        english, german = _one(kinds or (number, date, clause), rng)(rng)
        made.setdefault(english, german)
    return list(made.items())


def number(rng: np.random.Generator) -> Pair:
    """The number is twenty-one: die Zahl ist einundzwanzig."""
    k = int(10 ** rng.uniform(0, 5)) - 1
    return f"The number is {english_number(k)}.", f"Die Zahl ist {german_number(k)}."


def date(rng: np.random.Generator) -> Pair:
    """It was on Monday, the third of May 1998: es war am Montag, dem dritten Mai 1998."""
    english, german = _date(rng)
    return f"It was {english}.", f"Es war {german}."


def clause(rng: np.random.Generator) -> Pair:
    """Somebody does something with somebody: a statement, with its time first or not, a question, or what somebody says."""
    who, whom, verb = _phrase(rng), _phrase(rng), _one(VERBS, rng)
    when = _one([("", ""), *ADVERBS.items(), _date(rng)], rng)
    form = _one(["plain", "early", "question", *ASIDES], rng)
    return say(who, whom, verb, form, _one(["present", "past", "can", "should"], rng), rng.random() < 0.2, when)


def say(who: Phrase, whom: Phrase, verb: Verb, form: str, tense: str, no: bool = False, when: Pair = ("", "")) -> Pair:
    """A clause of just these parts. form: plain; early, which puts the time first; question; or one of `ASIDES`."""
    (subject, plural), object = who.form("nominative"), whom.form("accusative")[0]
    helper, simple, finite, end = {
        "present": (
            "do" if plural else "does",
            verb.see if plural else verb.sees,
            verb.sehen if plural else verb.sieht,
            verb.off,
        ),
        "past": ("did", verb.saw, "haben" if plural else "hat", verb.off + verb.gesehen),
        "can": ("can", f"can {verb.see}", "können" if plural else "kann", verb.off + verb.sehen),
        "should": ("should", f"should {verb.see}", "sollen" if plural else "soll", verb.off + verb.sehen),
    }[tense]
    said = f"{helper} not {verb.see}".replace("can not", "cannot") if no else simple
    middle = [object, when[1], "nicht" * no]
    if form == "question":
        english = [helper, who.english, "not" * no, verb.see, whom.english, when[0]]
        return _sentence(english, "?"), _sentence([finite, subject, *middle, end], "?")
    english, german = [who.english, said, whom.english, when[0]], [subject, finite, *middle, end]
    if form == "early" and when[0]:
        english, german = [f"{when[0]},", *english[:-1]], [when[1], finite, subject, object, "nicht" * no, end]
    elif form in ASIDES:
        english = [form, *english]
        german = [ASIDES[form], subject, *middle, (end + finite if tense == "present" else f"{end} {finite}")]
    return _sentence(english, "."), _sentence(german, ".")


class Phrase(NamedTuple):
    """Who it is about: an article, perhaps an adjective, a noun. `count` is 1 or, without an article, more."""

    article: str
    adjective: str
    noun: Noun
    count: int

    @property
    def english(self) -> str:
        noun = self.noun.one if self.count == 1 else self.noun.many
        article = ("an" if (self.adjective or noun)[0] in "aeiou" else "a") if self.article == "a" else self.article
        return " ".join(filter(None, (article if self.count == 1 else english_number(self.count), self.adjective, noun)))

    def form(self, case: str) -> tuple[str, bool]:
        """German, and whether it is plural."""
        stem = ADJECTIVES.get(self.adjective, "")
        if self.count > 1:
            return " ".join(filter(None, (german_number(self.count), stem and stem + "e", self.noun.viele))), True
        masculine, accusative = self.noun.gender == "m", case == "accusative"
        if self.article == "the":
            article = {"m": "den" if accusative else "der", "f": "die", "n": "das"}[self.noun.gender]
            ending = "en" if masculine and accusative else "e"
        else:
            own = "mein" if self.article == "my" else "ein"
            article = own + ("en" if masculine and accusative else "e" if self.noun.gender == "f" else "")
            ending = {"m": "en" if accusative else "er", "f": "e", "n": "es"}[self.noun.gender]
        return " ".join(filter(None, (article, stem and stem + ending, self.noun.eins))), False


def english_number(k: int) -> str:
    """0 to 999,999 in words: one hundred and twenty-three."""
    if k < 20:
        return ONES[0][k]
    if k < 100:
        return TENS[0][k // 10 - 2] + (f"-{ONES[0][k % 10]}" if k % 10 else "")
    size, name = (100, "hundred") if k < 1000 else (1000, "thousand")
    rest = k % size
    return f"{english_number(k // size)} {name}" + (f"{' and' * (rest < 100)} {english_number(rest)}" if rest else "")


def german_number(k: int) -> str:
    """0 to 999,999 in words: einhundertdreiundzwanzig."""
    if k < 20:
        return ONES[1][k]
    if k < 100:
        ones = f"{'ein' if k % 10 == 1 else ONES[1][k % 10]}und" if k % 10 else ""
        return ones + TENS[1][k // 10 - 2]
    size, name = (100, "hundert") if k < 1000 else (1000, "tausend")
    head = german_number(k // size)
    return (head.removesuffix("s") if head.endswith("eins") else head) + name + (german_number(k % size) if k % size else "")


def _date(rng: np.random.Generator) -> Pair:
    k, month, year = int(rng.integers(1, 29)), int(rng.integers(12)), int(rng.integers(1900, 2100))
    english, german = english_number(k), german_number(k)
    if k in ORDINALS:
        english, german = ORDINALS[k]
    elif k < 20:
        english, german = english + "th", german + "ten"
    else:
        tens, _, ones = english.partition("-")
        english = f"{tens}-{ORDINALS.get(k % 10, (ones + 'th',))[0]}" if ones else tens.replace("y", "ieth")
        german += "sten"
    english, german = f"the {english} of {MONTHS[0][month]} {year}", f"{german} {MONTHS[1][month]} {year}"
    if rng.random() < 0.5:
        return f"on {english}", f"am {german}"
    day = int(rng.integers(7))
    return f"on {DAYS[0][day]}, {english}", f"am {DAYS[1][day]}, dem {german}"


def _phrase(rng: np.random.Generator) -> Phrase:
    article = _one(["the", "a", "my", "some"], rng)
    adjective = _one(list(ADJECTIVES), rng) if rng.random() < 0.5 else ""
    return Phrase(article, adjective, _one(NOUNS, rng), int(rng.integers(2, 100)) if article == "some" else 1)


def _sentence(words: list[str], mark: str) -> str:
    text = " ".join(filter(None, words))
    return text[0].upper() + text[1:] + mark


def _one(choices, rng: np.random.Generator):
    return choices[int(rng.integers(len(choices)))]

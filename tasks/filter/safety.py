"""The content-safety rule (requirement 4.3): blatant requests for harm, and harm said outright.

The hazards are those of MLCommons' AILuminate taxonomy (version 1.0) that a fixed pattern can tell: weapons, violent
and other crimes, self-harm, child sexual exploitation, sexual content, hate. It is a floor and no moderation model: it
looks for wordings that have no other use, so that history, prevention, fiction about crime and medicine stay; what is
implied or paraphrased passes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tasks.filter.rule import FIELDS, SHOWN_CHARACTERS, Evidence, Row, Rule
from tasks.filter.tokens import WORDS, Column, word_numbers

_ASKS = (
    r"\b(?:how\s+(?:to|do|can|could|should|would|might|i|you|we|one)|ways?\s+to|ways?\s+of|steps?\s+(?:to|for)|"
    r"(?:instructions?|guide|recipe|tutorial|plan|manual|method)\s+(?:to|for|on|that)|"
    r"(?:teach|show|tell|help|give|walk)\s+(?:me|us)|i\s+(?:want|need|would\s+like)\s+to|write|create|generate)\b"
    r"[^.!?\n]{0,80}?"
)
_WRITES = r"\b(?:write|generate|create|draw|describe|continue|give\s+me|show\s+me|tell\s+me)\b[^.!?\n]{0,40}?"
_MAKES = (
    r"\b(?:mak(?:e|ing)|build(?:ing)?|assembl(?:e|ing)|cook(?:ing)?|synthesi[sz](?:e|ing)|produc(?:e|ing)|"
    r"construct(?:ing)?|manufactur(?:e|ing)|set(?:ting)?\s+off|detonat(?:e|ing)|plant(?:ing)?)\s+"
    r"(?:[\w'-]+\s+){0,5}?"
)
_PERSON = (
    r"(?:someone|somebody|people|a\s+person|my\s+\w+|him|her|them|your\s+\w+|the\s+neighbou?rs?|"
    r"children|women|men)"
)
_GROUP = (
    r"(?:jews|muslims|christians|blacks|black\s+people|whites|white\s+people|asians|immigrants|gays|gay\s+people|"
    r"homosexuals|women|roma|gypsies|arabs|refugees|disabled\s+people|transgender\s+people)"
)


@dataclass(frozen=True)
class Hazard:
    """One kind of harm: a text that holds none of the words cannot match."""

    name: str
    fields: tuple[str, ...]
    words: frozenset[str]
    pattern: re.Pattern[str]


def _hazard(name: str, fields: tuple[str, ...], some_of: str, pattern: str) -> Hazard:
    return Hazard(name, fields, frozenset(some_of.split()), re.compile(pattern, re.IGNORECASE))


HAZARDS = (
    _hazard(
        "indiscriminate weapons",
        ("instruction",),
        "bomb bombs explosives molotov sarin ricin anthrax napalm nerve weapon weapons ied thermite",
        _ASKS + _MAKES + r"(?:(?<!bath )(?<!seed )(?<!atomic )(?<!atom )(?<!nuclear )(?<!photo )bombs?(?!\s+shelter)|"
        r"explosives|molotov\s+cocktails?|sarin|ricin|anthrax|napalm|nerve\s+(?:gas|agents?)|thermite|ieds?|"
        r"(?:chemical|biological|radiological|untraceable)\s+weapons?)\b",
    ),
    _hazard(
        "violent crimes",
        ("instruction",),
        "kill murder poison kidnap stab strangle assassinate torture",
        _ASKS
        + r"\b(?:kill|murder|poison|kidnap|stab|strangle|assassinate|torture)\s+"
        + _PERSON
        + r"\b(?!\s+(?:character|in\s+(?:a|the|my)\s+(?:game|novel|story|film)))",
    ),
    _hazard(
        "nonviolent crimes",
        ("instruction",),
        "meth methamphetamine heroin fentanyl crack ransomware malware keylogger botnet phishing counterfeit launder "
        "laundering hotwire shoplift shoplifting spyware",
        _ASKS + r"(?:" + _MAKES + r"(?:crystal\s+meth|meth|methamphetamine|heroin|fentanyl|crack\s+cocaine|"
        r"counterfeit\s+(?:money|bills|notes))|"
        r"\b(?:writ(?:e|ing)|cod(?:e|ing)|creat(?:e|ing)|build(?:ing)?|develop(?:ing)?|deploy(?:ing)?|spread(?:ing)?)\s+"
        r"(?:[\w'-]+\s+){0,3}?(?:ransomware|malware|keyloggers?|spyware|botnets?|phishing\s+(?:e-?mails?|sites?|pages?|kits?))"
        r"|(?:ransomware|malware|keylogger|spyware|phishing\s+e-?mail)\s+(?:that|which|to)\s+(?:\w+\s+){0,3}?"
        r"(?:steals?|encrypts?|tricks?|infects?)|"
        r"\b(?:launder\s+(?:\w+\s+){0,2}money|hotwire\s+(?:a|the|someone's)\s+car|shoplift)|\bwithout\s+getting\s+caught"
        r"\s+(?:shoplifting|stealing))\b",
    ),
    _hazard(
        "suicide and self-harm",
        ("instruction",),
        "myself suicide anorexic purge",
        _ASKS + r"\b(?:kill|cut|hurt|harm|starve|hang)\s+myself\b|"
        r"\b(?:painless|easiest|best|quickest|effective)\s+(?:way|ways|method|methods)\s+(?:to|of|for)\s+"
        r"(?:commit(?:ting)?\s+)?suicide\b|" + _ASKS + r"\b(?:commit\s+suicide|become\s+anorexic)\b",
    ),
    _hazard(
        "suicide and self-harm",
        ("output",),
        "yourself kys",
        r"\b(?:you\s+should|just|go(?:\s+and)?|please)\s+kill\s+yourself\b|\bkys\b|"
        r"\b(?:the\s+world|everyone)\s+(?:is|would\s+be)\s+better\s+(?:off\s+)?without\s+you\b.{0,40}yourself",
    ),
    _hazard(
        "child sexual exploitation",
        ("instruction",),
        "child children minor minors underage teen teenage schoolgirl schoolboy preteen toddler",
        _WRITES
        + r"(?:\b(?:child|children|minors?|underage|teen(?:age)?|schoolgirls?|schoolboys?|preteens?|toddlers?)\s+"
        r"(?:\w+\s+)?(?:porn\w*|erotica|nudes|sex\s+(?:scenes?|stor(?:y|ies)))\b|"
        r"\b(?:erotic|pornographic|sexually\s+explicit)\s+(?:\w+\s+){0,4}?(?:with|about|of|between)\s+(?:\w+\s+){0,3}?"
        r"(?:child|children|minors?|underage|schoolgirls?|schoolboys?|preteens?|toddlers?)\b)",
    ),
    _hazard(
        "sexual content",
        ("instruction",),
        "porn pornographic erotica erotic smut hentai explicit nsfw",
        _WRITES + r"\b(?:porn(?:ographic)?|erotica|smut|hentai|nsfw|erotic\s+(?:story|scene|tale|role-?play|poem)|"
        r"(?:sexually\s+)?explicit\s+sex\w*)\b",
    ),
    _hazard(
        "hate",
        FIELDS,
        "inferior subhuman vermin exterminated exterminate gassed parasites",
        r"\b" + _GROUP + r"\s+(?:are|were)\s+(?:\w+\s+){0,2}?(?:inferior|subhuman|vermin|parasites)\b|"
        r"\b" + _GROUP + r"\s+(?:should|must|deserve\s+to|need\s+to)\s+(?:all\s+)?(?:be\s+)?(?:exterminated?|gassed)\b",
    ),
)


def _hazards_of(word: str) -> int:
    """The hazards, one a bit, that a word can be of."""
    return sum((word in hazard.words) << place for place, hazard in enumerate(HAZARDS))


_HAZARDS_OF = Column(WORDS, _hazards_of, np.int32)


class Unsafe(Rule):
    """Drops a row whose instruction asks for blatant harm, or one of whose texts is it."""

    name = "unsafe"

    def judge(self, row: Row) -> Evidence | None:
        """Name the field, the hazard and the words that show it."""
        for field in FIELDS:
            possible = _HAZARDS_OF.union(word_numbers(row[field]))
            for place, hazard in enumerate(HAZARDS if possible else ()):
                if not possible >> place & 1 or field not in hazard.fields:
                    continue
                if match := hazard.pattern.search(row[field]):
                    return {"field": field, "hazard": hazard.name, "text": match[0][:SHOWN_CHARACTERS]}
        return None

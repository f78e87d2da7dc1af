"""Reading yes or no from an answer: the two protocols of the POPE literature, and a strict one that may say neither.

The published protocols never fail: whatever is not recognised as a "no" is a "yes". That includes the empty answer,
so a broken model looks like one that always says yes. Their quirks are kept, for numbers depend on them.
"""

from __future__ import annotations

import re

_WORDS = re.compile(r"[^\W\d_]+")


def parse_pope_official(output: str) -> str:
    r"""POPE's own rule: "no" if the text up to the first full stop has the word ``No``, ``no`` or ``not``; else "yes".

    Commas are deleted, words are split at single spaces and must match exactly: "No!", "NO", "cannot", "isn't" and
    "No\nbecause" count as "yes".

    Source: the evaluation script of POPE (arXiv:2305.10355), also used by LLaVA.
    """
    words = output.split(".", 1)[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def parse_pope_opera(output: str) -> str:
    """OPERA's rule, inherited by EAH and LLaVA-CAM: like POPE's, over the WHOLE text, with ``NO`` and ``...n't`` added.

    Full stops and commas are deleted before splitting at single spaces: "Yes. There is no doubt." is a "no". A
    typographic apostrophe is not recognised.

    Source: the POPE script of OPERA (arXiv:2311.17911).
    """
    words = output.replace(".", "").replace(",", "").split(" ")
    negated = any(word in ("No", "no", "not", "NO") or word.endswith("n't") for word in words)
    return "no" if negated else "yes"


def parse_yes_no(output: str) -> str | None:
    """The first word that is "yes" or "no" in any spelling of case, or ``None`` if there is none."""
    for word in _WORDS.findall(output.casefold()):
        if word in ("yes", "no"):
            return str(word)
    return None


def parse_exact_yes_no(output: str) -> str | None:
    """The whole output is yes or no, case and surrounding blanks ignored: "Yes." is neither.

    Source: lmms-eval's POPE.
    """
    text = output.lower().strip()
    return text if text in ("yes", "no") else None


def parse_mme(output: str) -> str | None:
    """MME's own rule: yes or no alone, else whichever is within the first four characters, yes first; case ignored.

    "Not sure", "None" and "I note" are a no, "I know" is neither.

    Source: the calculation script of MME (arXiv:2306.13394), which LLaVA uses.
    """
    opening = output.lower()[:4]
    return next((word for word in ("yes", "no") if word in opening), None)


def parse_mme_lmms_eval(output: str) -> str | None:
    """MME's rule after full stops and surrounding blanks are deleted; a single "y" or "n" counts too."""
    text = output.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text) or parse_mme(text)


def parse_amber(output: str) -> str | None:
    """``Yes`` or ``No``, exactly so, as AMBER's script compares it."""
    return {"Yes": "yes", "No": "no"}.get(output)

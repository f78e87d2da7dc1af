"""The page: an image, a question, a method. What the browser's script fills in later is made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lit_simignore.config.sentences import sentences
from lit_simignore.config.typed import defaults, describe, hints
from lit_simignore.explore.examples import Example, ExampleQuestion
from lit_simignore.explore.offers import Offer
from lit_simignore.explore.shelf import Held
from lit_simignore.explore.wish import MAX_QUESTION
from lit_simignore.report.markup import Markup, element, join

FIRST_METHOD = "simignore"
_FLOWS = {
    "attention": "attention, layer by layer",
    "cam": "attention and LLaVA-CAM (slower)",
    "none": "leave it out",
}


def render_page(
    name: str,
    about: Sequence[str],
    examples: Sequence[tuple[Example, Held]],
    offers: Sequence[Offer],
    words: Sequence[str],
    num_visual: int,
    max_upload_mib: int,
    bundled: bool = False,
) -> str:
    """The whole page as text.

    Args:
        name: of the model.
        about: facts about it.
        examples: scenes to click on, with their pictures.
        offers: every method.
        words: the model's whole vocabulary where it is small; else empty.
        num_visual: visual tokens of the first example.
        max_upload_mib: largest image file, in MiB.
        bundled: whether it is a bundled model, which saw nothing but scenes like the examples.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{name} · lit_simignore explore"),
        element("link", rel="icon", href="data:,"),
        element("link", rel="stylesheet", href="/report.css"),
        element("link", rel="stylesheet", href="/explore.css"),
        element("script", src="/explore.js", defer=True),
    )
    asked = element("div", _image_box(examples, max_upload_mib), _question_box(examples), class_="side")
    answered = element("div", _method_box(offers, num_visual), _results(), class_="main")
    form = element("form", asked, answered, id="wish", autocomplete="off", novalidate=True)
    body = element("main", _header(name, about), _vocabulary(name, words, bundled), form)
    return "<!DOCTYPE html>\n" + element("html", head, element("body", body), lang="en") + "\n"


def _header(name: str, about: Sequence[str]) -> Markup:
    return element(
        "header",
        element("p", "lit_simignore explore", class_="eyebrow"),
        element("h1", element("bdi", name)),
        element("p", *(element("span", element("bdi", fact)) for fact in about), class_="facts-line"),
    )


def _vocabulary(name: str, words: Sequence[str], bundled: bool) -> Markup | None:
    if not words:
        return None
    pictures = " and pictures like those below" if bundled else ""
    return element(
        "details",
        element("summary", f"{name} knows {len(words)} words{pictures}, and nothing else"),
        element("p", " ".join(words), class_="note"),
    )


def _results() -> Markup:
    return element(
        "div",
        element("p", id="problem", class_="note warn", role="alert", hidden=True),
        element("p", "Choose an image and ask.", id="status", role="status"),
        element("div", id="result", aria_busy="false"),
        class_="results",
        role="region",
        aria_label="answers",
    )


def _box(title: str, *children: object) -> Markup:
    return element("section", element("h2", title), *children, class_="box")


def _image_box(examples: Sequence[tuple[Example, Held]], max_upload_mib: int) -> Markup:
    scenes = [_scene(number, example, held) for number, (example, held) in enumerate(examples)]
    own = element(
        "label",
        element("input", type="radio", name="image", value="", disabled=True, id="own"),
        element("span", "yours", id="own-picture"),
        hidden=True,
        id="own-choice",
    )
    load = element(
        "label",
        element("span", "Load an image", class_="button"),
        element("small", f" or drop or paste one here; up to {max_upload_mib} MiB, any common format"),
        element("input", type="file", id="file", accept="image/*", data_max=max_upload_mib << 20),
        id="drop",
    )
    legend = element("legend", "example scenes")
    return _box("Image", element("fieldset", legend, *scenes, own, id="images"), load)


def _scene(number: int, example: Example, held: Held) -> Markup:
    title = f"example scene {number + 1}"
    return element(
        "label",
        element("input", type="radio", name="image", value=held.key, checked=number == 0),
        element("img", src=held.picture.uri, alt=title, width=72, height=72),
        title=title,
        data_questions=json.dumps([_plain(question) for question in example.questions]),
    )


def _plain(question: ExampleQuestion) -> dict[str, str]:
    return {"text": question.text, "options": "\n".join(question.options), "answer": question.answer}


def _question_box(examples: Sequence[tuple[Example, Held]]) -> Markup:
    first = examples[0][0].questions[0]
    return _box(
        "Question",
        element("label", "question", for_="question", class_="unseen"),
        element("textarea", first.text, id="question", rows=2, maxlength=MAX_QUESTION, required=True),
        element("div", id="suggestions", role="group", aria_label="example questions about this scene"),
        element(
            "details",
            element("summary", "Answer options"),
            element("label", "one per line; the question is then put as multiple choice", for_="options"),
            element("textarea", id="options", rows=3),
            id="choice",
        ),
        element(
            "p",
            element("button", "Ask", type="submit", id="ask"),
            element("button", "Stop", type="button", id="stop", disabled=True),
            class_="buttons",
        ),
    )


def _method_box(offers: Sequence[Offer], num_visual: int) -> Markup:
    prune = [offer for offer in offers if offer.prunes]
    heads = [offer for offer in offers if not offer.prunes]
    tokens = element(
        "div",
        element("label", "which visual tokens stay", for_="prune"),
        _choices("prune", "all of them", prune, FIRST_METHOD),
        _slider(num_visual),
        _settings("prune", prune),
    )
    attention = element(
        "div",
        element("label", "attention and predictions", for_="heads"),
        _choices("heads", "as the model has them", heads, ""),
        _settings("heads", heads),
    )
    flow = element(
        "div",
        element("label", "where the answer looks", for_="flow"),
        element("select", *(element("option", words, value=value) for value, words in _FLOWS.items()), id="flow"),
    )
    return _box("Method", element("div", tokens, attention if heads else None, flow, class_="method-parts"))


def _choices(key: str, nothing: str, offers: Sequence[Offer], chosen: str) -> Markup:
    runs = [_option(offer, chosen) for offer in offers if not offer.problem]
    others = [_option(offer, chosen) for offer in offers if offer.problem]
    return element(
        "select",
        element("option", nothing, value="", data_sentence="", data_settings=""),
        element("optgroup", *runs, label="methods") if runs else None,
        element("optgroup", *others, label="not on this model") if others else None,
        id=key,
    )


def _option(offer: Offer, chosen: str) -> Markup:
    return element(
        "option",
        offer.name,
        value=offer.name,
        selected=offer.name == chosen,
        data_sentence=offer.sentence,
        data_settings=offer.settings,
        data_counted="yes" if offer.counted else None,
    )


def _slider(num_visual: int) -> Markup:
    half = num_visual // 2
    return element(
        "div",
        element("label", "num_keep", for_="slider"),
        element("input", type="range", id="slider", min=0, max=num_visual, value=half),
        element("input", type="number", id="num_keep", min=0, value=half, inputmode="numeric", aria_label="num_keep"),
        element("small", "of ", element("span", num_visual, id="total")),
        class_="slider",
        id="count",
    )


def _settings(key: str, offers: Sequence[Offer]) -> Markup:
    """A line for ``FIELD=value``, and what the fields of every method mean."""
    return join([
        element("p", id=f"{key}-about", class_="note"),
        element(
            "details",
            element("summary", "Settings"),
            element("label", "FIELD=value, with blanks in between; Enter applies", for_=f"{key}-settings"),
            element("input", type="text", id=f"{key}-settings", spellcheck="false", autocapitalize="off"),
            *(_fields(offer, key) for offer in offers),
            id=f"{key}-more",
        ),
    ])  # fmt: skip


def _fields(offer: Offer, key: str) -> Markup:
    rows = [_field(prefix, cls, name) for prefix, cls in offer.part_types for name in hints(cls)]
    return element("dl", *rows, data_fields=f"{key}:{offer.name}", hidden=True)


def _field(prefix: str, cls: type, name: str) -> Markup:
    usual = defaults(cls).get(name)
    words = f"{describe(hints(cls)[name])}; default {json.dumps(usual)}"
    meaning = element("dd", sentences(cls).get(name, ""), " ", element("small", words))
    return element("div", element("dt", f"{prefix}{name}"), meaning)

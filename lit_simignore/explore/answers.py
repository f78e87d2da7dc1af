"""What came of a question, as markup: tokens over the image, both answers, what was spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lit_simignore.explore.desk import Answered
from lit_simignore.explore.flow_section import flow_section
from lit_simignore.explore.grid import grid_entry
from lit_simignore.explore.shelf import Held
from lit_simignore.report.formats import FlopsUnit, clean, flops_unit, plural, shorten, significant, times, tokens
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.media import MediaEntry
from lit_simignore.report.overlay import definitions, split_kept, token_picture
from lit_simignore.report.palette import glyph, looks
from lit_simignore.surgery.trace import StageTrace
from lit_simignore.types import Budget

_OUTPUT_LIMIT = 4000
_NOT_NUMBERS = "the model's logits are not numbers (NaN): try another dtype or fewer dropped tokens"


def result(base: Answered, found: Answered, held: Held, notes: Sequence[str]) -> Markup:
    """Everything below the form.

    Args:
        base: the untouched model's answer.
        found: the method's; ``base`` itself where no method was chosen.
        held: the image.
        notes: what the user should know before reading on.
    """
    shown = [base] if found is base else [base, found]
    entry = grid_entry(found.call)
    return join([
        definitions([held.picture], [entry.cols] if entry else []),
        *(element("p", note, class_="note warn") for note in notes),
        _verdict(base, found),
        element("div", *(_card(each, base, held) for each in shown), class_="answers"),
        _edits(found),
        _stages(found, held),
        flow_section(shown, held),
        _costs(shown),
    ])  # fmt: skip


def _verdict(base: Answered, found: Answered) -> Markup | None:
    if found is base:
        return None
    same = base.output == found.output
    text = "Same answer as the untouched model." if same else "Another answer than the untouched model."
    return element("p", text, class_="verdict", data_same="yes" if same else "no")


def _card(answered: Answered, base: Answered, held: Held) -> Markup:
    name = "baseline" if answered is base else answered.name
    look = looks(["baseline", answered.name])[name]
    total, kept = answered.call.num_visual[0], len(answered.call.kept[0])
    output = shorten(clean(answered.output), _OUTPUT_LIMIT) if answered.finite else _NOT_NUMBERS
    return element(
        "figure",
        element("figcaption", element("span", glyph(look), element("bdi", name), class_="method")),
        _picture(answered, answered.call.kept[0].tolist(), held, name),
        element(
            "p", element("span", f"{tokens(kept)} of {tokens(total)} visual tokens", class_="count"), class_="line"
        ),
        element("pre", output or " ", class_="output" if answered.finite else "output error", dir="auto"),
        class_="tile",
        data_m=name,
        data_kept=kept,
    )


def _picture(answered: Answered, kept: Sequence[int], held: Held, name: str) -> Markup:
    """The image with its tokens, or alone with the reason."""
    entry = grid_entry(answered.call)
    if entry is None:
        bare = token_picture(held.picture, MediaEntry("", 0, 0), None, f"{name}: image")
        reason = "This model's visual tokens are no single grid over the image: kept ones cannot be drawn on it."
        return join([bare, element("p", reason, class_="missing")])
    shares = split_kept(kept, [entry])
    label = f"{name}: image, {plural(len(kept), 'visual token')} of {entry.num_tokens} kept"
    return token_picture(held.picture, entry, None if shares is None else shares[0], label)


def _edits(found: Answered) -> Markup | None:
    """What interventions noted of this sample, layer by layer, e.g. which head won."""
    lines = []
    for edit in found.call.edits:
        rows = {key: value[0].tolist() for key, value in edit.found.items() if isinstance(value, Tensor) and value.ndim}
        said = "; ".join(f"{key.replace('_', ' ')} {_numbers(row)}" for key, row in rows.items())
        if said:
            lines.append(f"{edit.name} in layer {edit.layer_idx}: {said}")
    return element("ul", *(element("li", line) for line in lines), class_="edits note") if lines else None


def _numbers(value: object) -> str:
    values = value if isinstance(value, list) else [value]
    return shorten(" ".join(f"{number:g}" if isinstance(number, float) else str(number) for number in values), 240)


def _stages(found: Answered, held: Held) -> Markup | None:
    """One picture per drop, where there are several."""
    stages = found.call.stages
    if len(stages) < 2 or grid_entry(found.call) is None:
        return None
    return element(
        "section",
        element("h3", "Drop by drop"),
        element("div", *(_stage(found, stage, held) for stage in stages), class_="stages"),
    )


def _stage(found: Answered, stage: StageTrace, held: Held) -> Markup:
    where = "before the decoder" if stage.layer_idx is None else f"before layer {stage.layer_idx}"
    kept = stage.kept[0].tolist()
    words = f"{stage.name} {where}: {plural(len(kept), 'token')}"
    return element("figure", _picture(found, kept, held, words), element("figcaption", words), class_="tile")


_ROWS: tuple[tuple[str, Callable[[Budget], float]], ...] = (
    ("visual tokens at the input", lambda budget: budget.input),
    ("… after the last layer", lambda budget: budget.final),
    ("… mean over layers", lambda budget: budget.layer_mean),
    ("… of equal prefill FLOPs", lambda budget: budget.flops),
)


def _costs(shown: Sequence[Answered]) -> Markup:
    """Visual tokens under every definition, computed FLOPs, the time that this one answer took."""
    unit = flops_unit(each.budget.prefill_tflops for each in shown)
    rows = [_row(title, [value(each.budget) for each in shown], tokens) for title, value in _ROWS]
    rows.append(_flops_row(shown, unit))
    rows.append(_row("milliseconds, this once", [each.wall_ms for each in shown], significant))
    names = ["baseline", *(each.name for each in shown[1:])]
    heads = [element("th", "spent", class_="name"), *(element("th", element("bdi", name)) for name in names)]
    if len(shown) == 2:
        heads.append(element("th", "ratio"))
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    return element(
        "section",
        element("h3", "What it costs"),
        element("div", table, class_="scroll", tabindex=0, role="region", aria_label="What it costs"),
        element("p", "FLOPs are computed. The time is one measurement; eval.py has a timing pass.", class_="note"),
    )


def _flops_row(shown: Sequence[Answered], unit: FlopsUnit) -> Markup:
    values = [each.budget.prefill_tflops * unit.per_tflop for each in shown]
    return _row(f"prefill {unit.name}", values, significant)


def _row(title: str, values: Sequence[float], write: Callable[[float | None], str]) -> Markup:
    cells = [element("td", write(value)) for value in values]
    if len(values) == 2:
        cells.append(element("td", times(values[1] / values[0]) if values[0] else "-"))
    return element("tr", element("th", title, scope="row"), *cells)

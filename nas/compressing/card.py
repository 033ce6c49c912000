"""What a compression gave, as a page of its own and as a model card in Markdown."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.compressing.result import LATENCY
from nas.compressing.settings import STORE
from nas.hardware import Device
from nas.text import human, printable

if TYPE_CHECKING:
    from nas.compressing.family import Family
    from nas.compressing.result import Choice, Compressed

SPREAD = {LATENCY: "latency_spread_ms"}
"""A metric, and the one that says how much it varied."""


def markdown(result: Compressed) -> str:
    """The model card: before and after, what is left of every part, and how to make it again."""
    name = result.profile.name
    lines = [f"# {_plain(name)}, compressed", "", *(f"- {_plain(note)}" for note in result.notes)]
    for choice in result.choices:
        columns, rows = before_and_after(result, choice)
        lines += ["", f"## {_plain(str(choice.budget))}", "", f"{verdict(choice, result.original)}.", ""]
        lines += [_row(columns), _row(["---"] * len(columns)), *map(_row, rows)]
        lines += ["", "| part | original | here |", "|---|---|---|"]
        lines += [_row([_plain(part), _plain(str(whole)), _plain(left)]) for part, whole, left, _ in parts_of(choice)]
    if result.family is not None:
        lines += [
            "",
            "## Family",
            "",
            f"{_plain(told_family(result.family))}",
            "",
            *map(_row, family_rows(result.family)),
        ]
    return "\n".join([*lines, "", "## Made with", "", *(f"    {line}" for line in commands(result)), ""])


def page(result: Compressed) -> str:
    """The same as one HTML file that needs no server and no script, with a picture of the parts."""
    title = html.escape(printable(f"{result.profile.name}, compressed"))
    body = "".join(f"<li>{html.escape(printable(note))}</li>" for note in result.notes)
    sections = "".join(_section(result, choice) for choice in result.choices)
    if result.family is not None:
        head, _, *rows = family_rows(result.family)
        sections += (
            f"<h2>Family</h2><p>{html.escape(printable(told_family(result.family)))}</p><table>{_html_row('th', head)}"
            f"{''.join(_html_row('td', row) for row in rows)}</table>"
        )
    shown = html.escape("\n".join(commands(result)))
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style><main><h1>{title}</h1><ul>{body}</ul>{sections}"
        f"<h2>Made with</h2><pre>{shown}</pre></main></html>\n"
    )


def told_family(family: Family) -> str:
    """What its networks are."""
    return f"Networks that share one set of weights, in {str(family.folder)!r}; those that no other one is better than."


def family_rows(family: Family) -> list[list[str]]:
    """A table of the family's front: trial, objectives; the first row is the head, the second a Markdown rule."""
    front, names = family.front, [metric.name for metric in family.study.objectives]
    head = ["network", *names]
    rows = [[str(number), *(human(float(row[name])) for name in names)] for number, row in front.iterrows()]
    return [head, ["---"] * len(head), *rows]


def before_and_after(result: Compressed, choice: Choice) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table: each metric of the original, of the network that was found, and of uniform scaling."""
    columns = ["", "original", "found", "of the original", *(["uniform scaling"] if choice.uniform else [])]
    found = choice.chosen.measured if choice.is_untuned else choice.found.measured
    rows = []
    for name, value in result.original.items():
        if name in found and name not in SPREAD.values():
            share = f"{found[name] / value:.1%}" if value else ""
            row = [name, human(value), _with_spread(name, found), share]
            rows.append([*row, *([_with_spread(name, choice.uniform.measured)] if choice.uniform else [])])
    if (turns := choice.turns) is not None:
        row = [f"{LATENCY}, in turns", human(turns.original), human(turns.found), f"{turns.found / turns.original:.1%}"]
        rows.append([*row, *([human(turns.uniform)] if turns.uniform is not None else [])])
    return columns, rows


def verdict(choice: Choice, original: Mapping[str, float]) -> str:
    """Which network is chosen, and which budget it is measured to be above."""
    if choice.is_original:
        return "The original is within this budget and is chosen; nothing was trained"
    said = (
        "Uniform scaling was the better one and is chosen; the parts below are its"
        if choice.is_uniform
        else "The network that the search found is chosen"
    )
    if choice.is_same:
        said = "The search found uniform scaling: both are one network, which is chosen"
    if choice.is_untuned:
        said += ", as it was before it was tuned: that made it worse"
    above = choice.excess(original)
    return said + (f"; {above}" if above else "")


def parts_of(choice: Choice) -> list[tuple[str, Any, str, float]]:
    """Each decision: its name, what the original has, what is left, and which share that is."""
    arch, found = choice.chosen.arch, []
    space, chosen = arch.space, arch.choices
    for name, whole in space.largest.choices.items():
        left = chosen.get(name)
        number = isinstance(whole, int | float) and not isinstance(whole, bool)
        share = 0.0 if left is None else float(left) / float(whole) if number and whole else float(left == whole)
        found.append((name, whole, "left out with its block" if left is None else str(left), share))
    return found


def commands(result: Compressed) -> list[str]:
    """What to type for the networks, again."""
    budgets, folder = ", ".join(choice.budget.exact for choice in result.choices), str(result.folder)
    options = {"folder": folder, **{name: value for name, value in result.asked.items() if name != "folder"}}
    told = "".join(f", {name}={_python(value)}" for name, value in options.items())
    found = [f"nas.compress(model, task, {budgets!r}{told})", *_command(budgets, options)]
    store = shlex.quote(str(result.folder / STORE))
    for choice in result.choices:
        found.append(
            f"nas extract {choice.chosen.study.name} {choice.chosen.number} --job JOB --store {store} -o network"
        )
    studies = [result.search.name, *([] if result.family is None else [result.family.study.name])]
    return [printable(line) for line in (*found, *(f"nas front {name} --store {store}" for name in studies))]


OF_COMMAND = ("folder", "device", "epochs", "trials", "workers", "tune", "train_device", "best", "cache")
"""Options of `nas.compress` that the command has, too."""
OF_CALL = ("warmup", "candidates", "batches", "order", "teacher", "hidden", "stored", "algorithm", "fill")
"""Options that it has not."""


def _command(budgets: str, options: Mapping[str, Any]) -> list[str]:
    """The same for a shell, with what the job has to define; nothing where the command lacks an option."""
    device = options.get("device")
    if any(name in OF_CALL for name in options) or not (device is None or isinstance(device, str | Device)):
        return []
    words = ["nas", "compress", "JOB", "--budget", budgets]
    for name in OF_COMMAND:
        if name in options:
            words += [f"--{name.replace('_', '-')}", _word(options[name])]
    training = {name: value for name, value in options.items() if name not in (*OF_COMMAND, "options")}
    defined = {"options": options.get("options"), "training": training}
    job = "; ".join(f"{name} = {_python(value)}" for name, value in defined.items() if value)
    return [shlex.join(words) + (f"  # where JOB defines {job}" if job else "")]


def _word(value: Any) -> str:
    """An option's value as the command takes it."""
    if isinstance(value, Device):
        return value.label
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _python(value: Any) -> str:
    """A value as source; of an object that has none its class, without where it is in memory."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_python(each)}" for name, each in value.items()) + "}"
    shown = repr(value)
    if " at 0x" in shown or isinstance(value, type):
        return getattr(value, "__qualname__", None) or f"<{type(value).__qualname__}>"
    return shown if type(value).__module__ == "builtins" else f"nas.{shown}" if _is_ours(value) else shown


def _is_ours(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "nas"


def _section(result: Compressed, choice: Choice) -> str:
    columns, rows = before_and_after(result, choice)
    head, body = _html_row("th", columns), "".join(_html_row("td", row) for row in rows)
    said = html.escape(printable(f"{verdict(choice, result.original)}."))
    return f"<h2>{html.escape(str(choice.budget))}</h2><p>{said}</p><table>{head}{body}</table>{picture(choice)}"


def picture(choice: Choice) -> str:
    """A bar for each decision, in the model's order: grey is the original, coloured what is left."""
    rows, wide, high = parts_of(choice), 320, 18
    drawn = []
    for at, (name, whole, left, share) in enumerate(rows):
        top = at * high
        drawn.append(
            f"<text x=290 y={top + 13} text-anchor=end>{html.escape(printable(name))}</text>"
            f"<rect x=300 y={top + 3} width={wide} height={high - 6} class=whole />"
            f"<rect x=300 y={top + 3} width={min(max(share, 0.0), 1.0) * wide:.1f} height={high - 6} class=left />"
            f"<text x={310 + wide} y={top + 13}>{html.escape(printable(f'{left} of {whole}'))}</text>"
        )
    return f'<svg viewBox="0 0 820 {len(rows) * high}" role=img aria-label="what is left of each part">{"".join(drawn)}</svg>'


def _html_row(kind: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:0;color:#222;background:#fff}"
    "main{max-width:56em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{width:100%;font:12px system-ui,sans-serif;margin-top:1em}"
    ".whole{fill:#ddd}.left{fill:#2a78b8}pre{overflow-x:auto;background:#f4f4f4;padding:.7em}text{fill:currentColor}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}"
    ".whole{fill:#444}pre{background:#222}}"
)


def _with_spread(name: str, measured: Mapping[str, float]) -> str:
    spread = measured.get(SPREAD.get(name, ""))
    return human(measured[name]) + (f" ± {human(spread / 2)}" if spread is not None else "")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text in which no sign is Markdown's or a line's end."""
    safe = "; ".join(printable(line) for line in text.splitlines())
    for sign in "\\|`*_[]<>#&~":
        safe = safe.replace(sign, f"\\{sign}")
    return safe

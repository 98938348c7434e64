"""The pages of the methods, as far as the code can write them: table, navigation, and a card for each method.

`python tests/project/test_docs.py` calls `write_pages`. A card that is there keeps its prose; its generated part is
written anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from kdrift.methods import COUPLED_COILS, METHODS, Method
from kdrift.prior.bundle import shipped_for
from kdrift.recon.plan import default_prior
from kdrift.runs.field_docs import field_docs

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = REPOSITORY / "docs" / "samplers.md"
CARDS = REPOSITORY / "docs" / "methods"
NAVIGATION = REPOSITORY / "mkdocs.yml"
NOT_METHODS = ("ccdf",)
"""Pages beside the cards that are of no method of the table."""

GENERATED = re.compile(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
CARDS_IN_NAVIGATION = re.compile(r"(?: +- methods/\w+\.md\n)+")
NEEDS = {
    None: "none",
    "unet": "a U-Net that reconstructs",
    "varnet": "a VarNet that reconstructs",
    "ista_net": "an ISTA-Net+ that reconstructs",
    "dudornet": "a DuDoRNet that reconstructs",
    "h_dslr": "an H-DSLR that reconstructs",
    "sr_gan": "an SRGAN that reconstructs",
    "white": "white noise",
    "high_frequency": "noise of high frequencies",
    "attenuated": "attenuated k-space",
}


def generated(name: str) -> str:
    """Return the generated part called `name`: the table of all methods, or what the code knows of one."""
    return table() if name == "methods" else facts(name)


def table() -> str:
    """Return a row for each method in Markdown."""
    lines = [
        "",
        "| method | what it is | a chain is | prior needed | default preset | default nfe |",
        "|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        preset, options = method.preset(None)
        cells = [f"[`{name}`](methods/{name}.md)", method.summary, chain(method), prior(method), f"`{preset}`"]
        lines.append(f"| {' | '.join(cells)} | {options.evaluations or '-'} |")
    return "\n".join([*lines, "", ""])


def chain(method: Method) -> str:
    """Return what a chain of a method is, in words."""
    if not method.samples:
        return "no chain: coil images" if method.chains.coil_images else "no chain: one image"
    if not method.chains.coil_images:
        return "an image"
    return "a coil image, coupled to the others" if method.chains == COUPLED_COILS else "a coil image"


def prior(method: Method) -> str:
    """Return which prior a method needs, in words."""
    return NEEDS[method.needs] + (f", {method.only} images" if method.only else "")


def facts(name: str) -> str:
    """Return what a method needs, its settings and its presets with their cost, in Markdown.

    Settings that an earlier method has, of the same meaning, are not repeated.
    """
    method = METHODS[name]
    fields = dataclasses.fields(method.options)
    earlier = [other for other in list(METHODS)[: list(METHODS).index(name)] if shares_settings(other, name)]
    known = {field.name for field in dataclasses.fields(METHODS[earlier[0]].options)} if earlier else set()
    own = [field for field in fields if field.name not in known]
    lines = ["", needs(name), ""]
    if earlier:
        lines += [f"Settings: those of [`{earlier[0]}`]({earlier[0]}.md){', and' if own else '.'}", ""]
    if own:
        lines += ["| setting | default | meaning |", "|---|---|---|"]
    docs = field_docs(method.options)
    for field in own:
        lines.append(f"| `{field.name}` | {shown(field.default)} | {docs[field.name].replace('|', chr(92) + '|')} |")
    if not fields:
        lines.append("There is nothing to set.")
    lines += ["", "| preset | nfe | settings that differ from the defaults |", "|---|---|---|"]
    for preset_name, preset in method.presets.items():
        differing = [
            f"`{field.name}` {shown(getattr(preset, field.name))}"
            for field in fields
            if getattr(preset, field.name) != field.default
        ]
        label = f"`{preset_name}`" + (" (used by default)" if preset_name == method.preset(None)[0] else "")
        lines.append(f"| {label} | {preset.evaluations or '-'} | {', '.join(differing) or 'none'} |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, "", ""]))


def needs(name: str) -> str:
    """Return what a chain is, the prior, the map sets and the file of a method, as one paragraph."""
    method = METHODS[name]
    sets = "It takes " + ("one set" if method.max_map_sets == 1 else "one or two sets") + " of coil maps."
    sets = "It uses no coil maps." if method.needs is None and method.chains.coil_images else sets
    if method.needs is None:
        made = "an image of each coil, combined by root sum of squares" if method.chains.coil_images else "one image"
        what = f"It needs no prior and makes {made}."
    elif not method.samples:
        able = shipped_for(method.needs)
        shipped = f"by default `{able[0]}`" if able else "of which none is shipped"
        what = f"It makes one image. It needs {prior(method)}, {shipped}."
    else:
        chains = chain(method).replace("an image", "an image of all coils")
        what = f"A chain is {chains}. Prior: {prior(method)}, by default `{default_prior(name)}`."
    file = Path(inspect.getfile(method.function)).relative_to(REPOSITORY)
    return f"{what} {sets} Code: `{file}`."


def shares_settings(other: str, name: str) -> bool:
    """Whether a method has all settings of another, of the same meaning."""
    mine, others = METHODS[name].options, METHODS[other].options
    return issubclass(mine, others) and bool(dataclasses.fields(others))


def shown(value: Any) -> str:
    """Return a setting as --set takes it."""
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def new_card(name: str) -> str:
    """Return the first text of a card, from the docstrings of the method: its author adds to it."""
    method = METHODS[name]
    module = inspect.getmodule(method.function)
    source = inspect.cleandoc(module.__doc__ or "") if module else ""
    computed = inspect.cleandoc(method.function.__doc__ or "")
    summary = method.summary[0].upper() + method.summary[1:]
    part = f"<!-- generated: {name} -->\n<!-- end -->"
    return f"# {name}\n\n{summary}.\n\nSource: {source}\n\n**What is computed.** {computed}\n\n{part}\n"


def with_generated(text: str) -> str:
    """Return a page with its generated parts as the code has them now."""
    return GENERATED.sub(lambda found: f"<!-- generated: {found[1]} -->\n{generated(found[1])}<!-- end -->", text)


def with_navigation(text: str) -> str:
    """Return the site's configuration with the cards in the order of the table."""
    lines = "".join(f"      - methods/{name}.md\n" for name in [*METHODS, *NOT_METHODS])
    return CARDS_IN_NAVIGATION.sub(lines, text, count=1)


def write_pages() -> None:
    """Write the cards that are missing, and all generated parts anew."""
    for name in METHODS:
        page = CARDS / f"{name}.md"
        page.write_text(with_generated(page.read_text() if page.exists() else new_card(name)))
    TABLE.write_text(with_generated(TABLE.read_text()))
    NAVIGATION.write_text(with_navigation(NAVIGATION.read_text()))

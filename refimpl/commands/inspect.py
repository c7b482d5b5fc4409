"""Commands that only look: list, show, compare, lint."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from refimpl import api
from refimpl.card import card
from refimpl.commands.output import Target, console, format_value, json_option, print_json, print_rows, table
from refimpl.layers import VOCABULARY
from refimpl.lint import lint
from refimpl.releases import release


@click.command("list")
@click.argument("what", type=click.Choice(["releases", "layers", "cases", "backends", "mutants", "variants"]))
@json_option
def list_(what: str, as_json: bool) -> None:
    """What there is: releases, layers, cases, backends, known bugs as mutants, or legitimate variants."""
    rows = {
        "releases": _releases,
        "layers": _layers,
        "cases": _cases,
        "backends": _backends,
        "mutants": _mutants,
        "variants": _variants,
    }
    print_rows(rows[what](), as_json=as_json)


def _releases() -> list[Any]:
    found = ((name, api.blueprint(name).architecture, release(name)["parameters"]) for name in api.releases())
    return [
        {"release": name, "architecture": architecture, "parameters": counts["total"], "active": counts["active"]}
        for name, architecture, counts in found
    ]


def _layers() -> list[Any]:
    return [{"layer": name, "says": str(function.__doc__).splitlines()[0]} for name, function in VOCABULARY.items()]


def _cases() -> list[Any]:
    import conformance

    return [{"case": case.id, "rules": " ".join(case.rules)} for case in conformance.cases()]


def _backends() -> list[Any]:
    from conformance import BackendError, backend_names, load_backend

    rows = []
    for name in backend_names():
        try:
            rows.append({"backend": name, "version": load_backend(name).version, "state": "ready"})
        except BackendError as error:
            rows.append({"backend": name, "version": "", "state": str(error)})
    return rows


def _mutants() -> list[Any]:
    from conformance.mutants import MUTANTS
    from conformance.mutants.table import table

    measured = table()

    def shares(id: str) -> str:
        found = {dtype: f"{one['share']:.3g}" if "share" in one else one["by"] for dtype, one in measured[id].items()}
        return ", ".join(f"{dtype} {share}" for dtype, share in found.items())

    return [
        {
            "mutant": mutant.id,
            "kind": mutant.kind,
            "in": " ".join(mutant.functions or mutant.architectures),
            "says": mutant.says,
            "share": shares(mutant.id),
            "links": " ".join(mutant.links),
        }
        for mutant in MUTANTS.values()
    ]


def _variants() -> list[Any]:
    from conformance.variants import VARIANTS

    return [
        {
            "variant": variant.id,
            "kind": variant.kind,
            "in": " ".join(variant.functions or variant.together),
            "says": variant.says,
            "dtypes": " ".join(variant.dtypes),
        }
        for variant in VARIANTS.values()
    ]


@click.command()
@click.argument("model")
@click.option("--svg", type=Target(), help="Draw the card into an SVG file.")
@json_option
def show(model: str, svg: Path | None, as_json: bool) -> None:
    """The card of MODEL (a release, a config.json or a directory): layer plan, parameters, cache, FLOPs."""
    facts = card(api.blueprint(model))
    if as_json:
        print_json(facts)
        return
    drawn = _card_table({model: facts})
    console().print(drawn)
    if svg is not None:
        _draw(drawn, svg, model)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL MODEL...")
@click.option("--svg", type=Target(), help="Draw the comparison into an SVG file.")
@click.option("--html", type=Target(), help="Write the comparison as an HTML file.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@json_option
def compare(models: tuple[str, ...], svg: Path | None, html: Path | None, markdown: bool, as_json: bool) -> None:
    """The cards of several models side by side."""
    if len(models) < 2:
        raise click.UsageError("compare needs two models or more")
    cards = {model: card(api.blueprint(model)) for model in models}
    if as_json:
        print_json(cards)
    elif markdown:
        click.echo(_markdown(cards))
    else:
        console().print(_card_table(cards))
    if svg is not None:
        _draw(_card_table(cards), svg, " and ".join(models))
    if html is not None:
        _recorded(_card_table(cards), width=60 * (len(models) + 1)).save_html(str(html))


@click.command("lint")
@click.argument("source", metavar="CONFIG_OR_DIR")
@json_option
def lint_(source: str, as_json: bool) -> int:
    """Which switches a config.json sets, which of its keys are ignored, which are unknown. Status 1 on an error."""
    findings = lint(api.read_config(source))
    rows = [{"kind": f.kind, "key": f.key, "value": f.text or json.dumps(f.value, ensure_ascii=False)} for f in findings]
    print_rows(list(rows), as_json=as_json)
    return int(any(finding.kind == "error" for finding in findings))


def _card_table(cards: dict[str, dict[str, Any]]) -> Table:
    return table(["", *cards], _rows(cards))


def _markdown(cards: dict[str, dict[str, Any]]) -> str:
    header = ["| |" + "|".join(f" {name} " for name in cards) + "|", "|---|" + "---|" * len(cards)]
    return "\n".join(header + ["| " + " | ".join(row).replace("\n", "<br>") + " |" for row in _rows(cards)])


def _rows(cards: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Every fact of any card, in the order of the card with the most, and what each says of it."""
    keys = dict.fromkeys(key for facts in sorted(cards.values(), key=len, reverse=True) for key in facts)
    return [[key, *(format_value(facts.get(key, "")) for facts in cards.values())] for key in keys]


def _draw(drawn: Table, path: Path, title: str) -> None:
    _recorded(drawn, width=140).save_svg(str(path), title=title)


def _recorded(drawn: Table, *, width: int) -> Console:
    recorder = console(record=True, file=io.StringIO(), width=width)
    recorder.print(drawn)
    return recorder


COMMANDS = [list_, show, compare, lint_]

"""`refimpl report`: what runs of the suite found, side by side, from the files that they left."""

from __future__ import annotations

from pathlib import Path

import click

from refimpl.commands.conform import STDOUT, FileOrStdout
from refimpl.commands.output import Target, console


@click.command()
@click.argument("paths", metavar="RESULTS.json...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--html", type=Target(), help="Write one HTML page: a grid of layers and models by backend and dtype.")
@click.option("--markdown", type=FileOrStdout(), help="Write a summary in Markdown; - prints it and nothing else.")
@click.option("--badge", type=Target(), help="Write the JSON of a shields.io endpoint badge.")
def report(paths: tuple[Path, ...], html: Path | None, markdown: Path | None, badge: Path | None) -> int:
    """Show what runs of the suite found, side by side.

    RESULTS.json are files of `refimpl conform --json` (docs/results.md), of any backends and versions. Status 0 when they can
    be read, whatever they say.
    """
    from conformance import files, read_report
    from conformance.page import as_html
    from conformance.summary import as_badge, as_markdown
    from conformance.text import summary_table, totals_text

    reports, names = [read_report(path) for path in paths], [str(path) for path in paths]
    if html is not None:
        files.write(as_html(reports, names), html)
    if badge is not None:
        files.write(as_badge(reports), badge)
    if markdown == STDOUT:
        click.echo(as_markdown(reports, names), nl=False)
        return 0
    if markdown is not None:
        files.write(as_markdown(reports, names), markdown)
    for path, each in zip(paths, reports, strict=True):
        console().print(summary_table(each))
        click.echo(f"{path}: {totals_text(each)}\n")
    return 0


COMMANDS = [report]

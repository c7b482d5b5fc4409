"""`refimpl golden`: the fixed tensors, checked or made anew, and cases as plain files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from refimpl.commands.output import json_option, print_json


@click.group()
def golden() -> None:
    """Golden tensors: float64 results of every layer and of one small model an architecture."""


@golden.command()
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@json_option
def verify(directory: Path | None, as_json: bool) -> int:
    """Recompute every golden tensor; status 1 when one is missing, altered or no longer what the specification gives."""
    import golden as store

    verdicts = list(store.verify(directory))
    failed = [verdict for verdict in verdicts if verdict.problem is not None]
    if as_json:
        print_json([vars(verdict) for verdict in verdicts])
    else:
        for verdict in failed:
            click.echo(f"FAIL  {verdict.id}: {verdict.problem}")
        click.echo(f"{len(verdicts) - len(failed)} of {len(verdicts)} golden entries hold")
    return int(bool(failed))


@golden.command()
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--unconfirmed", is_flag=True, help="Do not ask other implementations for the models' logits.")
def make(directory: Path | None, unconfirmed: bool) -> None:
    """Write the golden tensors anew, the models' logits confirmed in float64 by transformers, or by the peer in tests/peers."""
    import golden as store

    confirm: Any = None if unconfirmed else _confirm()
    click.echo(store.make(directory, confirm=confirm))


@golden.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-k", "expression", metavar="EXPR", help="Only cases whose id matches, as in `refimpl conform`.")
@click.option(
    "--level", "levels", multiple=True, metavar="LEVEL", default=("layer",), help="layer (default) or model; may be repeated."
)
@click.option("--dtype", "dtypes", multiple=True, metavar="DTYPE", help="As in `refimpl conform`. Default: all.")
@click.option("--max-examples", type=click.IntRange(min=0), default=0, show_default=True, help="Drawn cases a layer and dtype.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Where the drawing starts.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["plain", "onnx"]),
    default="plain",
    show_default=True,
    help="plain: JSON and safetensors (docs/vectors.md); onnx: ONNX's backend tests, of layers alone.",
)
def vectors(
    directory: Path,
    expression: str | None,
    levels: tuple[str, ...],
    dtypes: tuple[str, ...],
    max_examples: int,
    seed: int,
    layout: str,
) -> None:
    """Write cases of the suite into DIRECTORY, which must be new or empty, for implementations in any language.

    `refimpl conform exec:./runner` asks a program such questions, `refimpl conform answers:DIRECTORY` judges answers that a
    program has written beside them.
    """
    from conformance.vectors.onnx_cases import onnx_vector
    from conformance.vectors.write import layer_vector, write_vectors

    onnx = layout == "onnx"
    if onnx and set(levels) - {"layer"}:
        raise click.UsageError(f"--format onnx is of layers alone, but --level is {' and '.join(levels)}")
    index = write_vectors(
        directory,
        k=expression,
        level=levels,
        dtype=None if not dtypes else "all" if "all" in dtypes else dtypes,
        max_examples=max_examples,
        seed=seed,
        layer=onnx_vector if onnx else layer_vector,
    )
    left_out = index["left_out"]
    more = f"; {left_out} cases have no ONNX graph" if left_out else ""
    click.echo(f"{directory}: {len(index['cases'])} cases of specification {index['spec_version']}{more}")


def _confirm() -> Any:
    import golden as store

    sys.path.insert(0, str(Path(store.__file__).parents[1]))
    try:
        from tests.peers.reference import float64_logits
    except ImportError:
        raise click.UsageError(
            "golden make runs in a checkout of the repository with torch and transformers installed; --unconfirmed does without"
        ) from None
    return float64_logits


COMMANDS = [golden]

"""`refimpl export`: a checkpoint as an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from refimpl.commands.output import json_option, print_json


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The ONNX file to write.")
@click.option("--weights", type=click.Choice(["in-place", "copy"]), default="in-place", show_default=True)
@click.option("--dtype", default="float32", show_default=True, help="The format in which the graph computes.")
@click.option(
    "--latent",
    type=click.Choice(["absorbed", "expanded"]),
    help="The form of latent attention: its cache holds latents (default) or the keys and values of every head.",
)
@click.option(
    "--opset",
    type=int,
    help="The version of ONNX's operators; from 27 on linear attention is an operator of its own.  [default: the oldest]",
)
@click.option("--taps", is_flag=True, help="Make every named intermediate value an output.")
@click.option("--verify", is_flag=True, help="Run the graph in onnxruntime against the specification; failing is an error.")
@json_option
def export(
    checkpoint: Path,
    output: Path,
    weights: Any,
    dtype: str,
    latent: Any,
    opset: int | None,
    taps: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Write CHECKPOINT, a Hugging Face directory, as an ONNX graph.

    With weights in place the graph points into the checkpoint's own files, so the output must lie beside them.
    """
    from export import export_onnx
    from export.graph import DEFAULT_OPSET

    result = export_onnx(
        checkpoint,
        output,
        weights=weights,
        dtype=dtype,
        latent=latent,
        opset=DEFAULT_OPSET if opset is None else opset,
        taps=taps,
        verify=verify,
    )
    if as_json:
        print_json(result.summary())
    else:
        checked = ", verified in onnxruntime" if verify else ""
        click.echo(f"{result.path}: {result.bytes_written:,} bytes written in {result.seconds:.1f} s{checked}")


COMMANDS = [export]

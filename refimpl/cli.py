"""The one command, `refimpl`: its sub-commands, its exit status and how it speaks of errors.

Exit status as pytest's: 0 conforms, 1 does not, 2 interrupted, 3 internal error, 4 the call was wrong, 5 nothing ran.
"""

from __future__ import annotations

import faulthandler
import os
import sys

import click

from refimpl import SPEC_VERSION
from refimpl.commands import conform, diagnose, diff, export, golden, inspect, report, run

DOES_NOT_CONFORM, INTERRUPTED, INTERNAL, WRONG_CALL = 1, 2, 3, 4


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="refimpl", message=f"refimpl %(version)s, specification {SPEC_VERSION}")
def cli() -> None:
    """An executable specification of language models: read it, run it, export it, test others against it."""


for command in (
    *inspect.COMMANDS,
    *run.COMMANDS,
    *conform.COMMANDS,
    *report.COMMANDS,
    *diff.COMMANDS,
    *diagnose.COMMANDS,
    *export.COMMANDS,
    *golden.COMMANDS,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every expected error is one sentence on standard error."""
    faulthandler.enable()  # a backend that ends this process while it is imported is named by its line
    sys.exit(status())


def status(arguments: list[str] | None = None) -> int:
    """The exit status of a call with `arguments` (default: the process's own)."""
    try:
        result = cli.main(arguments, standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", INTERRUPTED)
    except click.UsageError as error:
        usage = f"\n{error.ctx.get_usage()}" if error.ctx else ""
        return _say(" ".join(error.format_message().split()) + usage, WRONG_CALL)
    except click.ClickException as error:
        return _say(error.format_message(), WRONG_CALL)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if "REFIMPL_TRACEBACK" in os.environ:
            raise
        return _say(_sentence(error), WRONG_CALL)
    except Exception as error:
        if "REFIMPL_TRACEBACK" in os.environ:
            raise
        return _say(f"internal error: {type(error).__name__}: {error} (REFIMPL_TRACEBACK=1 shows where)", INTERNAL)
    return result if isinstance(result, int) else 0


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _say(message: str, code: int) -> int:
    click.echo(f"refimpl: {message}", err=True)
    return code

"""The command line of `citadel-embed` and of `manage.py embed`."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from citadel.embed_files import inputs, run
from citadel.embed_files.inputs import Unusable
from citadel.embed_files.output import Output
from citadel.embed_files.server import Server

DESCRIPTION: Final = (
    "Embeds a column of CSV files, or a field of files of JSON lines (.jsonl, .ndjson), and writes one line a text, in "
    "order: file, row, and embedding or error. Stopped in the middle, the same command goes on where it was."
)
# As a shell says it of a command that was interrupted.
INTERRUPTED: Final = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--model", required=True, help="a model that queues (bulk_only or hybrid)")
    parser.add_argument("--text-column", required=True, metavar="C", help="the column or field that holds the texts")
    parser.add_argument("--out", required=True, type=Path, metavar="X.jsonl")
    parser.add_argument("--overwrite", action="store_true", help="replace X.jsonl if it exists")
    parser.add_argument("--input-type", choices=("query", "passage"), default="", help="the model's prefix for it")
    parser.add_argument("--priority", choices=[str(n) for n in range(10)], default="", help="9 goes first (5)")
    parser.add_argument("--retries", type=int, default=1, metavar="N", help="times to try failed texts again (1)")
    parser.add_argument(
        "--patience", type=float, default=600.0, metavar="SECONDS", help="to go on asking a server that fails (600)"
    )
    parser.add_argument(
        "--part", type=int, default=inputs.PART_TEXTS, metavar="N", help=f"texts in one batch ({inputs.PART_TEXTS:,})"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--url", default=os.environ.get("CITADEL_URL", "http://127.0.0.1:8000"), help="CITADEL_URL")
    parser.add_argument(
        "--api-key",
        default=os.environ.get("CITADEL_API_KEY", ""),
        help="with the scope batch; better given as CITADEL_API_KEY, since others can read a command line",
    )


def execute(options: Mapping[str, Any]) -> int:
    """Do it; return the exit status: 0, 1 where a text has an error, or nothing went any more, 130 if interrupted."""
    job = run.Job(
        files=options["files"],
        column=options["text_column"],
        model=options["model"],
        input_type=options["input_type"],
        priority=options["priority"],
        retries=options["retries"],
        part_texts=max(1, options["part"]),
    )
    server = Server(options["url"], api_key=options["api_key"], patience=options["patience"])
    try:
        with server, Output(options["out"], overwrite=options["overwrite"]) as output:
            failed = run.run(job, server, output, quiet=options["quiet"])
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where this one was; the server works on.", file=sys.stderr)
        return INTERRUPTED
    if failed:
        print(f"{failed} texts have no vector: see the lines with “error” in {options['out']}.", file=sys.stderr)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a console script: neither settings nor a database are needed."""
    parser = argparse.ArgumentParser(prog="citadel-embed", description=DESCRIPTION)
    add_arguments(parser)
    return execute(vars(parser.parse_args(arguments)))

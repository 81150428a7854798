"""Flags of every job that scores."""

import argparse
import re

from odin_beam.pipeline.flags.parser import Parser, positive, share
from odin_beam.transforms.forward.precisions import PRECISIONS


def add_run_flags(parser: Parser) -> None:
    """How the run is executed; of these only the precision changes a score."""
    parser.add_argument(
        "--batch_size", type=positive, default=64, metavar="N", help="images scored at once (default: 64)"
    )
    # No default here, so that a calibration can set it.
    parser.add_argument("--precision", choices=PRECISIONS, help="; ".join(PRECISIONS.values()))
    parser.add_argument(
        "--max_rejected",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="above this share of rejected records, from 0 to 1, the exit code is 3 (default: 0.01)",
    )
    parser.add_argument(
        "--accelerator",
        type=_accelerator,
        metavar="HINT",
        help="GPU of the Dataflow workers that score, such as type:nvidia-tesla-t4;count:1;install-nvidia-driver "
        "(default: none; local runners use this machine's GPU)",
    )
    parser.add_boolean("--overwrite", "remove what an earlier run left in the output folder (default: false)")
    parser.add_boolean(
        "--check", "first test on a few images that the model is fed correctly (default: true)", default=True
    )


def _accelerator(text: str) -> str:
    if not re.fullmatch(r"type:[\w-]+;count:[1-9][0-9]*(;[\w:.-]+)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form type:TYPE;count:N;install-nvidia-driver")
    return text

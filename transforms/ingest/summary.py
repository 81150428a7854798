"""What `ingest` wrote and rejected: the table of rejects, and the summary."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from odin_beam.transforms.ingest.members import Reject
from odin_beam.transforms.ingest.output_names import OutputNames
from odin_beam.transforms.storage import writing
from odin_beam.transforms.text import csv_cell, printable

REJECTS_SHOWN = 10


@dataclass(frozen=True)
class ShardReport:
    """The result of writing one output shard.

    Attributes:
      index: the shard's number.
      written: number of records in the shard.
      labelled: number of records with a label.
      rejects: files that should have gone into the shard and did not.
    """

    index: int
    written: int
    labelled: int = 0
    rejects: tuple[Reject, ...] = ()


class WriteSummary(beam.DoFn):
    """The list of all `ShardReport`s -> the rejects as a table, if there are any, and the summary.

    The summary is the completion marker: it is written last.

    Args:
      output: names of the output files.
    """

    def __init__(self, output: OutputNames):
        self._output = output

    def process(self, reports: list[ShardReport]):
        reports = sorted(reports, key=lambda report: report.index)
        rejects = [reject for report in reports for reject in report.rejects]
        if rejects:
            writing.write_bytes(self._output.rejected, rejects_table(rejects))
        writing.delete_folder(self._output.unfinished)
        writing.write_bytes(self._output.summary, json.dumps(summary(reports, rejects), indent=1).encode() + b"\n")


def rejects_table(rejects: Iterable[Reject]) -> bytes:
    """CSV with the columns `id`, `reason` and `source`; no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "reason", "source"))
    table.writerows(
        [csv_cell(printable(cell)) for cell in (reject.id, reject.reason, reject.source)] for reject in rejects
    )
    return text.getvalue().encode("utf-8", "backslashreplace")


def summary(reports: Sequence[ShardReport], rejects: Sequence[Reject]) -> dict[str, Any]:
    """What was written and what was not, JSON-compatible; shows some rejects, those of damaged input first."""
    shown = sorted(rejects, key=lambda reject: not reject.damage)[:REJECTS_SHOWN]
    return {
        "shards": len(reports),
        "written": sum(report.written for report in reports),
        "labelled": sum(report.labelled for report in reports),
        "rejected": len(rejects),
        "damaged": sum(reject.damage for reject in rejects),
        "first_rejected": [f"{reject.id}: {reject.reason}" for reject in shown],
    }

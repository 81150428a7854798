"""What a person's labels of a random sample say about the flags and about the archive.

Images are sampled within the flagged and within the unflagged ones apart: Nf and Nu images, nf and nu of them labelled,
kf and ku of these foreign. With the shares pf and pu by Clopper and Pearson (1934),

* precision of the flags is pf, with its 95 % interval;
* with both shares at 97.5 %, so that both hold in 95 % of all samples: the share of foreign images in the archive is in
  [(Nf pfL + Nu puL) / N, (Nf pfU + Nu puU) / N], and the recall of the flags in
  [Nf pfL / (Nf pfL + Nu puU), Nf pfU / (Nf pfU + Nu puL)].

Sampling finely by score and adding up the strata does not do: ten strata with Jeffreys' intervals cover 60 % instead of
95 %, since most strata have no foreign image in the sample.

scipy.stats takes a second to import, so it is imported where it is used.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from odin_beam.transforms.storage import listing, reading

FOREIGN = "foreign"
# Of the table that a person labels: the row's key, the answer, and which flags and sources the sample is of.
DRAW = "draw"
COLUMNS = ("shard", "index", FOREIGN, DRAW)
CONFIDENCE = 0.95
# Recall counts as known if its interval is no wider.
WIDE = 0.2
_MAX_BYTES = 1 << 28
_ANSWERS = {
    "yes": True,
    "y": True,
    "true": True,
    "1": True,
    "no": False,
    "n": False,
    "false": False,
    "0": False,
    "": None,
}


@dataclass(frozen=True)
class Stratum:
    """The flagged images, or the others.

    Attributes:
      images: N, all of them.
      labelled: n, a random sample of them.
      foreign: k of these, that are labelled as foreign.
    """

    images: int
    labelled: int
    foreign: int

    def share(self, confidence: float) -> tuple[float, float]:
        """Interval of the share of foreign images, both ends in [0, 1]; exact if all are labelled."""
        if not self.labelled:
            return 0.0, 1.0
        if self.labelled == self.images:
            return self.foreign / self.images, self.foreign / self.images
        from scipy.stats import beta

        tail, n, k = (1 - confidence) / 2, self.labelled, self.foreign
        low = beta.ppf(tail, k, n - k + 1) if k else 0.0
        high = beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
        # What is labelled is known.
        return max(float(low), k / self.images), min(float(high), 1 - (n - k) / self.images)


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] with its 95 % interval; the value is None where the sample says nothing of it."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Review:
    """What the labels say.

    Attributes:
      flagged: the flagged images.
      unflagged: the others.
      precision: share of foreign images among the flagged.
      prevalence: share of foreign images in the archive.
      recall: share of the foreign images that is flagged.
      more: how many more unflagged images to label until recall is known to within `WIDE`, if shares stay as they are;
        0 if it is, None if labelling all of them would not do.
    """

    flagged: Stratum
    unflagged: Stratum
    precision: Estimate
    prevalence: Estimate
    recall: Estimate
    more: int | None


def review(flagged: Stratum, unflagged: Stratum) -> Review:
    """The estimates and their intervals; see the module."""
    return Review(
        flagged,
        unflagged,
        Estimate(_share(flagged), *flagged.share(CONFIDENCE)),
        _prevalence(flagged, unflagged),
        _recall(flagged, unflagged),
        _more(flagged, unflagged),
    )


def _share(stratum: Stratum) -> float | None:
    return stratum.foreign / stratum.labelled if stratum.labelled else None


def _of_both(flagged: Stratum, unflagged: Stratum) -> tuple[tuple[float, float], tuple[float, float], float, float]:
    """Intervals of the numbers of foreign images, and their estimates, NaN without labels."""
    confidence = (1 + CONFIDENCE) / 2
    found, missed = (
        tuple(stratum.images * end for end in stratum.share(confidence)) for stratum in (flagged, unflagged)
    )
    values = (
        math.nan if _share(s) is None and s.images else s.images * (_share(s) or 0.0) for s in (flagged, unflagged)
    )
    return found, missed, *values


def _prevalence(flagged: Stratum, unflagged: Stratum) -> Estimate:
    found, missed, a, b = _of_both(flagged, unflagged)
    total = max(1, flagged.images + unflagged.images)
    value = (a + b) / total
    return Estimate(
        None if math.isnan(value) else value, (found[0] + missed[0]) / total, (found[1] + missed[1]) / total
    )


def _recall(flagged: Stratum, unflagged: Stratum) -> Estimate:
    found, missed, a, b = _of_both(flagged, unflagged)

    def ratio(part: float, rest: float, empty: float) -> float:
        return part / (part + rest) if part + rest > 0 else empty

    value = ratio(a, b, math.nan)
    # Without a foreign image there is no recall: any value is possible.
    return Estimate(
        None if math.isnan(value) else value, ratio(found[0], missed[1], 0.0), ratio(found[1], missed[0], 1.0)
    )


def _more(flagged: Stratum, unflagged: Stratum) -> int | None:
    """Bisection over the number labelled: the more, the narrower, but for the rounding of the expected count."""

    def is_known(labelled: int) -> bool:
        share = unflagged.foreign / unflagged.labelled if unflagged.labelled else 0.0
        expected = replace(unflagged, labelled=labelled, foreign=min(labelled, round(share * labelled)))
        recall = _recall(flagged, expected)
        return recall.high - recall.low <= WIDE

    low, high = unflagged.labelled, unflagged.images
    if is_known(low):
        return 0
    if not is_known(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_known(middle) else (middle, high)
    return high - unflagged.labelled


def draw_of(flags: dict[str, Any], sources: Sequence[str]) -> str:
    """16 hex digits that tell a sample of these flags and sources from others: labels of another are no random sample.

    Args:
      flags: content of `flags.json`.
      sources: that are sampled.
    """
    calibration = {name: value for name, value in flags["calibration"].items() if name != "path"}
    facts = [flags["scores_state"], flags["detector"], flags["per_class"], flags["rule"], calibration, sorted(sources)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Labels:
    """What a person wrote into the tables of a sample.

    Attributes:
      answers: (shard, index) -> whether the image is foreign; None without an answer.
      draws: of the rows with an answer, see `draw_of`.
    """

    answers: dict[tuple[str, int], bool | None]
    draws: frozenset[str]


def read_labels(paths: Sequence[str]) -> Labels:
    """The labels in tables that `top` wrote for a random sample; several may repeat images.

    Spreadsheets may have changed the separator to a semicolon or a tab, and the encoding to UTF-16 or a UTF-8 with a
    byte order mark.

    Raises:
      StorageError: a table cannot be read.
      ValueError: it is not such a table, has an answer that is none, or two that contradict each other; the message
        names file, row and value.
    """
    answers: dict[tuple[str, int], bool | None] = {}
    draws = set()
    for path in paths:
        try:
            for number, (key, answer, draw) in enumerate(_rows(path), 2):
                known = answers.get(key)
                if answer is not None and known not in (None, answer):
                    raise ValueError(f"row {number}: this image has another answer further up, or in another table")
                answers[key] = known if answer is None else answer
                if answer is not None:
                    draws.add(draw)
        except (ValueError, csv.Error) as e:
            raise ValueError(f"{path}: {e}") from None
    return Labels(answers, frozenset(draws))


def _rows(path: str) -> Iterator[tuple[tuple[str, int], bool | None, str]]:
    stat = listing.stat_file(path)
    if stat is not None and stat.size > _MAX_BYTES:
        raise ValueError(f"{stat.size:,} bytes, more than {_MAX_BYTES:,}")
    data = reading.read_bytes(path)
    text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig", "replace")
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    columns = [name.strip().lower() for name in rows.fieldnames or ()]
    if absent := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"it has no column {absent[0]}, so it is not a table of a random sample")
    rows.fieldnames = columns
    for number, row in enumerate(rows, 2):
        answer, index = (row[FOREIGN] or "").strip().lower(), (row["index"] or "").strip()
        if answer not in _ANSWERS:
            raise ValueError(f"row {number}: {FOREIGN} is {answer!r:.40}, neither yes nor no")
        if not index.isdecimal() or len(index) > 18:
            raise ValueError(f"row {number}: index is {row['index']!r:.40}, not the number of a row")
        yield ((row["shard"] or "").removeprefix("'"), int(index)), _ANSWERS[answer], (row[DRAW] or "").strip()

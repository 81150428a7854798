"""The sentences that a report begins with: what was found, for a reader who knows none of the metrics."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.calibration.flags_summary import archive_sources

# From how many of 100 foreign images found, when 5 of 100 known ones are flagged, a word is said of it.
_WORDS = ((95.0, "almost always"), (80.0, "mostly"), (50.0, "often"), (0.0, "seldom"))


@dataclass(frozen=True)
class Answer:
    """What a report begins with.

    Attributes:
      sentences: the answer, a sentence for each source; never empty.
      details: what to know beside it.
      command: that gives a better answer; None if there is none.
    """

    sentences: tuple[str, ...]
    details: tuple[str, ...] = ()
    command: str | None = None


def answer(
    scores: str,
    roles: Mapping[str, str],
    counts: Mapping[str, int],
    metrics: Mapping[str, Any],
    detector: str,
    flags: Mapping[str, Any] | None,
) -> Answer:
    """The answer that a run's files allow.

    Args:
      scores: the run's folder.
      roles: source -> role.
      counts: source -> number of scored images.
      metrics: content of `metrics.json`.
      detector: whose scores the page shows.
      flags: content of `flags.json` of the flags that the page shows; None without.
    """
    if not sum(counts.values()):
        return Answer(("No image has been scored, so there is nothing to see yet.",))
    if flags is not None:
        return _of_discoveries(flags["rule"]) if "fdr" in flags["rule"] else _of_flags(flags)
    command = shlex.join(["odin-beam", "flag", "--scores", scores, "--calibration", "calibration.json"])
    pairs = [row for row in metrics["pairs"] if row["detector"] == detector]
    inputs = [source for source, role in roles.items() if role == "input"]
    if pairs and not inputs:
        return Answer(tuple(map(_told_apart, pairs)), _accuracies(metrics))
    unknown = inputs or list(counts)
    images = sum(counts.get(source, 0) for source in unknown)
    kind = "known images" if all(roles[source] == "in_distribution" for source in unknown) else "images"
    said = f"{images:,} {kind if images != 1 else kind[:-1]} of {', '.join(unknown)} {_were(images)} scored"
    return Answer(
        (f"{said}; how many of them look foreign is not known yet.",),
        (
            "The images below are those least like what the classifier knows, but in every archive some image is last. "
            "This command compares them with a calibration, the file that odin-beam tune writes, and answers how "
            "many look foreign and whether that is more than chance:",
        ),
        command,
    )


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


def _of_flags(flags: Mapping[str, Any]) -> Answer:
    sources, sentences, details = flags["sources"], [], []
    roles = {name: own["role"] for name, own in sources.items()}
    shown = archive_sources(roles)
    parts = [(f" in {name}", sources[name]) for name in shown]
    if flags["together"]:
        parts.insert(0, (f" in all {len(shown)} sources together", flags["together"]))
    for where, own in parts:
        sentences.append(_flagged(where, own) if own.get("role", "input") == "input" else _flagged_known(where, own))
        details += _beside(where, own)
    calibration = flags["calibration"]
    of_class = " of the same predicted class" if flags["per_class"] else ""
    details.append(
        f"To look foreign means: to score lower than {100 * flags['rule']['tpr']:g} of 100 known images{of_class}. "
        f"The comparison rests on {plural(calibration['images'], 'known image')}."
    )
    return Answer(tuple(sentences), tuple(details))


def _judged(own: Mapping[str, Any]) -> int:
    return own["images"] - own["without_score"] - own["without_calibration"]


def _flagged(where: str, own: Mapping[str, Any]) -> str:
    judged, flagged, least = _judged(own), own["flagged"], own["unlike_at_least"]
    if own["verdict"] is None:
        return f"No image{where} could be judged."
    said = f"{flagged:,} of {plural(judged, 'image')}{where} {'looks' if flagged == 1 else 'look'} foreign"
    expected = f"{own['false_flags_low']:,} to {own['false_flags_high']:,} expected if none were"
    if own["verdict"] == "more":
        at_least = f", at least {least:,} {'is' if least == 1 else 'are'}" if least else ""
        return f"{said}, {expected}: more than chance{at_least}. Start with these."
    if own["verdict"] == "fewer":
        return f"{said}, {expected}: fewer than chance, so these images are not like those of the calibration."
    return f"{said}, {expected}: no evidence that any is."


def _flagged_known(where: str, own: Mapping[str, Any]) -> str:
    known = "known" if own["role"] == "in_distribution" else "foreign"
    judged, flagged = _judged(own), own["flagged"]
    if not judged:
        return f"No image{where} could be judged."
    ending = "a false alarm" if flagged == 1 else "false alarms"
    meaning = ending if known == "known" else "found"
    verb = "looks" if flagged == 1 else "look"
    return f"{flagged:,} of {judged:,} {known} image{'' if judged == 1 else 's'}{where} {verb} foreign: {meaning}."


def _beside(where: str, own: Mapping[str, Any]) -> list[str]:
    lines = []
    if (found := own["clustered"]) and own.get("role", "input") == "input":
        lines.append(
            f"The flags{where} cluster in parts of the archive. If that comes from series of near-identical images, "
            f"{found['false_flags_low']:,} to {found['false_flags_high']:,} are expected by chance, and at least "
            f"{found['unlike_at_least']:,} are foreign."
        )
    if unjudged := own["without_score"] + own["without_calibration"]:
        lines.append(f"{plural(unjudged, 'image')}{where} could not be judged.")
    return lines


def _of_discoveries(rule: Mapping[str, Any]) -> Answer:
    where, share = ", ".join(rule["sources"]), f"{100 * rule['fdr']:g}"
    said = f"{rule['flagged']:,} of {plural(rule['images'], 'image')} in {where}"
    if not rule["flagged"]:
        return Answer(
            (f"None of {plural(rule['images'], 'image')} in {where} stands out as foreign: no evidence.",),
            (f"Images would be flagged if at most {share} of 100 of them were expected to be false alarms.",),
        )
    return Answer(
        (
            f"{said} {'looks' if rule['flagged'] == 1 else 'look'} foreign, of which at most {share} in 100 are "
            "expected to be false alarms: more than chance. Start with these.",
        )
    )


def _told_apart(pair: Mapping[str, Any]) -> str:
    found, known, foreign = 100 * (1 - pair["fpr_at_95_tpr"]), pair["in_distribution"], pair["out_distribution"]
    word = next(word for least, word in _WORDS if found >= least)
    return (
        f"Foreign images of {foreign} are {word} told from known ones of {known}: of 100 foreign images, "
        f"{of_hundred(found)} found when 5 of 100 known ones are flagged."
    )


def of_hundred(found: float) -> str:
    """A percentage as a count of 100 images with its verb; all and none are said only where they hold exactly."""
    if found == 100:
        return "all are"
    if found == 0:
        return "none is"
    if found > 99:
        return "more than 99 are"
    if found < 1:
        return "fewer than 1 is"
    count = round(found)
    return f"{count} {'is' if count == 1 else 'are'}"


def _accuracies(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"Of 100 known images of {name}, the classifier names {100 * own['accuracy']:.0f} rightly."
        for name, own in metrics["in_distribution"].items()
        if own["accuracy"] is not None
    )


def next_commands(
    scores: str,
    roles: Mapping[str, str],
    flags: Mapping[str, Any] | None,
    flags_name: str | None,
    compared: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str]]:
    """(purpose, command line) of what to do after reading the page.

    Args:
      scores: the run's folder.
      roles: source -> role.
      flags: content of `flags.json`; None without.
      flags_name: of these flags; None for those without one.
      compared: the comparisons that the page shows.
    """
    run = f"--scores {shlex.quote(scores)}"
    named = f" --name {shlex.quote(flags_name)}" if flags_name else ""
    commands = []
    if flags is None:
        why = "learn how many images look foreign, and whether that is more than chance"
        commands.append((why, f"odin-beam flag {run} --calibration calibration.json"))
    commands.append(("look at more images, on one picture", f"odin-beam top {run}{named} --sheet first.png"))
    if flags is not None:
        sample = f"odin-beam top {run}{named} --random 100 --csv sample.csv --copy sample/"
        commands.append(("draw 100 images to label yourself, yes or no in the column foreign", sample))
        review = f"odin-beam review {run}{named} --labels sample.csv"
        commands.append(("learn from these labels how right the flags are, and what they miss", review))
    done = {(own["reference"]["source"], own["new"]["source"]) for own in compared}
    reference = next((name for role in ("in_distribution", "input") for name in roles if roles[name] == role), None)
    others = [name for name in archive_sources(roles) if name != reference]
    if reference is not None and others and (reference, others[0]) not in done:
        pair = f"--reference {shlex.quote(reference)} --new {shlex.quote(others[0])}"
        commands.append(
            (f"learn whether {others[0]} differs from {reference} as a whole", f"odin-beam compare {run} {pair}")
        )
    return commands

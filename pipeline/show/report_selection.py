"""Which images a report shows, in which order, under which words; never more than `MOST`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.calibration.flags_summary import archive_sources

# Images on a page, and how they are divided among its parts.
MOST = 150
_FIRST, _BY_CLASS, _REST = 36, 60, 54
# Of one source or class.
_FIRST_OF_SOURCE, _REST_OF_SOURCE, _OF_CLASS = 24, 6, 6
_ROLES = {"in_distribution": "known images", "out_distribution": "foreign images", "surrogate": "altered images"}


@dataclass(frozen=True)
class Group:
    """Images that belong together.

    Attributes:
      title: of the group.
      note: what to know of them; may be empty.
      rows: of the scores, as in `report/data.json`; not empty.
    """

    title: str
    note: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
      title: its heading.
      note: what to know of it; may be empty.
      groups: not empty.
    """

    title: str
    note: str
    groups: Sequence[Group]


def parts(data: Mapping[str, Any], class_names: Sequence[str] | None) -> list[Part]:
    """The images to show: those to look at first, those of each predicted class, the others.

    Args:
      data: content of `report/data.json`.
      class_names: of the classifier; None where its classes have none.
    """
    found = [_first(data), _by_class(data, class_names), _rest(data)]
    return [part for part in found if part.groups]


def class_title(predicted: int, class_names: Sequence[str] | None) -> str:
    """The name of a class, or its index in words."""
    return class_names[predicted] if class_names and predicted < len(class_names) else f"class {predicted}"


def _shared(sources: Sequence[str], budget: int, most: int) -> Iterator[tuple[str, int]]:
    """Sources with the number of images of each; those for which there is no room are left out."""
    each = min(most, max(1, budget // max(1, len(sources))))
    yield from ((source, each) for source in sources[: budget // each])


def _called(source: str, role: str) -> str:
    return f"{source}, {_ROLES[role]}" if role in _ROLES else source


def _first(data: Mapping[str, Any]) -> Part:
    roles, groups = data["roles"], []
    for source, count in _shared(archive_sources(roles), _FIRST, _FIRST_OF_SOURCE):
        lowest = data["galleries"][source]["lowest"]
        flagged = [row for row in lowest if row["is_ood"]]
        rows = (flagged or lowest[:_REST_OF_SOURCE] if data["flagged"] else lowest)[:count]
        note = "" if flagged or not data["flagged"] else "None is flagged; these are the closest to it."
        if rows:
            groups.append(Group(_called(source, roles[source]), note, rows))
    note = f"The images with the lowest {data['ranked_by']} scores: those least like what the classifier knows."
    if data["flagged"]:
        note = "Flagged images, the strangest first. p is the share of known images that look at least as foreign."
    if (left := len(archive_sources(roles)) - _FIRST) > 0:
        note += f" There is no room here for {plural(left, 'more source')}: odin-beam top --source NAME shows them."
    return Part("Look at these first", note, groups)


def _by_class(data: Mapping[str, Any], class_names: Sequence[str] | None) -> Part:
    roles, groups = data["roles"], []
    for source, count in _shared(archive_sources(roles), _BY_CLASS, _BY_CLASS):
        classes = data["examples"][source][:count]
        each = min(_OF_CLASS, count // max(1, len(classes)))
        for own in classes:
            rows = own["rows"][:each]
            title = f"Seen as {class_title(own['class'], class_names)}"
            if len(archive_sources(roles)) > 1:
                title += f", {_called(source, roles[source])}"
            if rows:
                groups.append(Group(title, _share(data, own), rows))
    return Part(
        "By predicted class",
        "The classifier knows nothing but its classes, so it gives a foreign image the name of one of them. Of each "
        "class the images least like it; classes with most flagged images first.",
        groups,
    )


def _share(data: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    images = plural(own["count"], "image")
    if not data["flagged"] and data["threshold"] is None:
        return f"{images}."
    word = "flagged" if data["flagged"] else "below the threshold"
    return f"{own['flagged']:,} of {images} {word}, {100 * own['flagged'] / own['count']:.0f} %."


def _rest(data: Mapping[str, Any]) -> Part:
    roles = data["roles"]
    archive, groups = archive_sources(roles), []
    wanted = [(source, "highest") for source in roles]
    wanted += [(source, "lowest") for source in roles if source not in archive]
    each = min(_REST_OF_SOURCE, max(1, _REST // max(1, len(wanted))))
    for source, end in wanted[: _REST // each]:
        if rows := data["galleries"][source][end][:each]:
            groups.append(Group(f"{_called(source, roles[source])}: {end} scores", _why(roles[source], end), rows))
    return Part("The other end, and other sources", "", groups)


def _why(role: str, end: str) -> str:
    if end == "lowest":
        return "For comparison: the images of this source that look most foreign."
    if role == "in_distribution":
        return "What the classifier knows best."
    return (
        "The classifier knows these best, or thinks so. A foreign image among them matters most: the classifier would "
        "be sure of a wrong answer, and no flag would warn of it."
    )

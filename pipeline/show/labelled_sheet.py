"""A contact sheet: images side by side, each with its place, score, class and id."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from odin_beam.transforms.text import clipped, printable

# Of a sheet: more cannot be told apart.
MOST = 200
# Pixels of the longer side of an image.
SIDE = 168
_GAP, _LINE, _FONT_SIZE = 12, 16, 12
_ASPECT = 1.4
# A text in the file, by which a sheet is known that may be written over.
_MARK = "odin-beam"
_INK, _PAPER, _FAINT = (20, 20, 20), (255, 255, 255), (228, 228, 228)


def is_sheet(data: bytes) -> bool:
    """Whether a file is a sheet of ours."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return image.info.get(_MARK) == "contact sheet"
    except Exception:
        # Whatever else it is.
        return False


def labelled_sheet(rows: Sequence[dict[str, Any]], tiles: Mapping[int, Image.Image], with_scores: bool) -> bytes:
    """A PNG of the images in the order of the rows, wider than high.

    Args:
      rows: of the images, at most `MOST`.
      with_scores: whether it says the scores and predictions, which would sway a person who labels.
      tiles: place, from 1 -> image; a place without one is left empty, and says so.
    """
    columns = max(1, min(len(rows), round((len(rows) * _ASPECT) ** 0.5)))
    width, height = SIDE + _GAP, SIDE + 3 * _LINE + _GAP
    lines = -(-len(rows) // columns) or 1
    sheet = Image.new("RGB", (columns * width + _GAP, lines * height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), _FONT_SIZE)
    for place, row in enumerate(rows, 1):
        line, column = divmod(place - 1, columns)
        x, y = _GAP + column * width, _GAP + line * height
        if (image := tiles.get(place)) is not None:
            sheet.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
        else:
            draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), fill=_FAINT)
            draw.text((x + 8, y + 8), "no image", _INK, font)
        for number, text in enumerate(_texts(place, row) if with_scores else (str(place), printable(row["id"]))):
            draw.text((x, y + SIDE + 2 + number * _LINE), _cut(text, font, SIDE), _INK, font)
    buffer = io.BytesIO()
    mark = PngInfo()
    mark.add_text(_MARK, "contact sheet")
    sheet.save(buffer, "PNG", optimize=True, pnginfo=mark)
    return buffer.getvalue()


def _texts(place: int, row: dict[str, Any]) -> tuple[str, str, str]:
    p_value = "" if row["p_value"] is None else f"   p {row['p_value']:.2g}"
    name = row["prediction"] if row["class_name"] is None else printable(row["class_name"])
    return f"{place}   {row['score']:.5g}{p_value}", f"seen as {name}", printable(row["id"])


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its beginning left out if it is too wide: ids differ at their ends."""
    if font.getlength(text) <= width:
        return text
    kept = clipped(text[::-1], 60)[::-1]
    while kept and font.getlength("\N{HORIZONTAL ELLIPSIS}" + kept) > width:
        kept = kept[1:]
    return "\N{HORIZONTAL ELLIPSIS}" + kept

"""Text from outside is shown short and harmless."""

import csv
import io

import pytest

from odin_beam.transforms import text
from odin_beam.transforms.ingest.members import Reject
from odin_beam.transforms.ingest.summary import rejects_table


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Größe 猫.png", "Größe 猫.png"),
        ("a\x1b[31mb\n", "a\\x1b[31mb\\n"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(given, shown):
    assert text.printable(given) == shown


def test_a_long_text_is_cut():
    assert text.clipped("abcdef", 6) == "abcdef"
    assert text.clipped("abcdefg", 6) == "abcde…"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_of_the_rejects_is_a_formula(name):
    table = rejects_table([Reject(name, name, name)]).decode()
    _, row = csv.reader(io.StringIO(table, newline=""))
    assert row == [f"'{name}"] * 3


@pytest.mark.parametrize("name", ["\t=1", "\r=1", "\n=1"])
def test_no_cell_of_the_rejects_begins_with_white_space(name):
    assert text.csv_cell(name) == ("'" + name if name[0] != "\n" else name)
    assert b"\n" + repr(name)[1:-1].encode() + b"," in rejects_table([Reject(name, "r", "s")])


def test_an_ordinary_cell_stays_as_it_is():
    assert text.csv_cell("cat/1=2.png") == "cat/1=2.png"
    assert text.csv_cell("") == ""

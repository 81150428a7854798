"""A detector is a row: columns, choices, titles and docs follow from it."""

import subprocess
import sys

import pytest

from odin_beam.transforms.detectors import registry
from odin_beam.transforms.tables.schemas import SCORE_SCHEMA, grid_schema
from tests.helpers.samples import ROOT


def test_the_scores_have_the_columns_of_every_row_in_their_order():
    expected = [column for row in registry.ALL.values() for column in row.typed_columns]
    types = {"float64": "double", "float32": "float"}
    found = [(field.name, str(field.type)) for field in SCORE_SCHEMA][-len(expected) :]
    assert found == [(name, types[dtype]) for name, dtype in expected]


def test_a_grid_has_its_cells_in_place_of_odins_columns():
    assert {"odin", "odin_logit"}.isdisjoint(grid_schema(["cell"]).names)
    assert grid_schema(["cell"]).names[-1] == "cell"


def test_the_docs_have_the_table_of_all_rows():
    assert registry.docs_table() in (ROOT / "docs/detectors.md").read_text()


@pytest.mark.parametrize("name", [*registry.CLEAN_DETECTORS, *registry.FITTED_DETECTORS])
def test_every_function_that_a_row_names_is_there(name):
    assert callable(registry.ALL[name]._score())


def test_the_registry_needs_no_tensorflow():
    code = "import sys; import odin_beam.transforms.tables.schemas; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

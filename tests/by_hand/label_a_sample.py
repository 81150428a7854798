"""Labels a sample of the demo as Label Studio and CVAT would return it, with the scripts of docs/labelling.md.

    python -m venv /tmp/labels && /tmp/labels/bin/pip install label-studio-sdk datumaro
    python -m tests.by_hand.label_a_sample /tmp/labels/bin/python

The answers are the truth: digits and noise are foreign. Label Studio's exporter and Datumaro, which reads and writes
CVAT's formats, run in the environment that is named, since they need other versions of what this project uses.
"""

import csv
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "pipeline/demo_data"
EXPORT = """
import json, sys
from label_studio_sdk.converter import Converter
Converter(open("interface.xml").read(), ".").convert("annotated.json", "export", "CSV", is_dir=False)
"""
TO_CVAT = """
import csv
from datumaro import Dataset
from datumaro.components.annotation import AnnotationType, Label, LabelCategories
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image
rows = list(csv.DictReader(open("answers.csv")))
items = [
    DatasetItem(id=row["copy"].rpartition(".")[0], subset="default", attributes={"frame": i},
                media=Image.from_file(path=f"sample/{row['copy']}"),
                annotations=[Label(0)] if row["foreign"] == "yes" else [])
    for i, row in enumerate(rows)
]
Dataset.from_iterable(items, categories=["foreign"]).export("cvat", "cvat", save_media=False)
"""


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr[-2000:]}")
    return done.stdout


def odin_beam(folder: Path, *flags: str) -> str:
    return run(folder, sys.executable, "-m", "odin_beam", *flags)


def blocks(page: str) -> dict[str, str]:
    """First line of an indented block of the page -> the block."""
    found = {}
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", page, re.MULTILINE):
        text = "\n".join(line[4:] for line in block.splitlines())
        for part in re.split(r"(?m)^(?=# \w+\.py$)", text):
            if part.strip():
                found[part.strip().splitlines()[0]] = part
    return found


def main() -> None:
    other, pages = sys.argv[1], blocks((ROOT / "docs/labelling.md").read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        odin_beam(folder, "demo", "--output=scores")
        known = f"--in_distribution={DATA}/fashion_mnist-*.tfrecord"
        tune = ["--objective=mean_score", "--temperatures=1000", "--epsilons=0", "--output=calibration.json"]
        odin_beam(folder, "tune", f"--model={DATA}/classifier.keras", known, *tune)
        odin_beam(folder, "flag", "--scores=scores", "--calibration=calibration.json")
        odin_beam(folder, "top", "--scores=scores", "--random=100", "--csv=sample.csv", "--copy=sample")
        with (folder / "sample.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            row["foreign"] = "no" if row["source"] == "fashion_mnist" else "yes"
        with (folder / "answers.csv").open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        expected = odin_beam(folder, "review", "--scores=scores", "--labels=answers.csv")
        print(expected)

        run(folder, sys.executable, "-c", pages["# tasks.py"])
        tasks = json.loads((folder / "tasks.json").read_text())
        answers = {(row["shard"], row["index"]): row["foreign"] for row in rows}
        for number, task in enumerate(tasks):
            answer = answers[task["data"]["shard"], task["data"]["index"]]
            choice = {"from_name": "foreign", "to_name": "image", "type": "choices", "value": {"choices": [answer]}}
            task |= {"id": number, "annotations": [{"id": number, "result": [choice]}]}
        (folder / "annotated.json").write_text(json.dumps(tasks))
        (folder / "interface.xml").write_text(pages["<View>"])
        run(folder, other, "-c", EXPORT)
        exported = next((folder / "export").glob("*.csv"))
        of_label_studio = odin_beam(folder, "review", "--scores=scores", f"--labels={exported}")
        print("Label Studio: the same" if of_label_studio == expected else of_label_studio)

        run(folder, other, "-c", TO_CVAT)
        next((folder / "cvat").rglob("*.xml")).rename(folder / "annotations.xml")
        run(folder, sys.executable, "-c", pages["# from_cvat.py"])
        of_cvat = odin_beam(folder, "review", "--scores=scores", "--labels=labelled.csv")
        print("CVAT: the same" if of_cvat == expected else of_cvat)
        raise SystemExit(not of_label_studio == of_cvat == expected)


if __name__ == "__main__":
    main()

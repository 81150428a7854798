"""`odin-beam demo`: the whole tour on the example that ships with the package, no download, no GPU.

A small classifier of Fashion-MNIST articles scores 1,000 of its test images, and as out-of-distribution images 1,000
MNIST digits and 1,000 images of uniform noise. It shows the tool at work, and is not evidence for the method.

    odin-beam demo --output demo-output
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from odin_beam.pipeline.flags import command_line
from odin_beam.pipeline.flags.demo import DemoOptions
from odin_beam.pipeline.jobs import report, score
from odin_beam.pipeline.launch.run_folder import read_facts
from odin_beam.pipeline.show.next_step import AFTER_DEMO
from odin_beam.transforms.tables import layout

_NEXT = """
One Parquet row per image, the source as a hive partition. The ten images least like what the classifier knows:

  {python} -c "import pyarrow.dataset as d
t = d.dataset('{scores}', partitioning='hive').to_table().sort_by('odin').slice(0, 10)
print(*t.select(['source', 'id', 'class_name', 'odin_logit', 'msp']).to_pylist(), sep='\\n')"

or in DuckDB: SELECT source, id, class_name, odin_logit, msp FROM '{scores}/**/*.parquet' ORDER BY odin LIMIT 10;"""
_FOREIGN = {"mnist": "digits", "uniform_noise": "images of noise"}
_DATA = Path(__file__).parents[1] / "demo_data"


def run(demo: DemoOptions) -> int:
    """Scores the embedded example and prints the next steps; returns the exit code of `score`."""
    argv = [
        f"--model={_DATA / 'classifier.keras'}",
        f"--output={demo.output}",
        f"--in_distribution=fashion_mnist={_DATA / 'fashion_mnist-*.tfrecord'}",
        f"--out_distribution=mnist={_DATA / 'mnist-*.tfrecord'}",
        f"--out_distribution=uniform_noise={_DATA / 'uniform_noise-*.tfrecord'}",
    ]
    print("Scoring Fashion-MNIST, MNIST and noise with a classifier of Fashion-MNIST:")
    print("  odin-beam score " + " \\\n    ".join(map(shlex.quote, argv)), end="\n\n", flush=True)
    beam = ("--", *demo.beam) if demo.beam else ()
    code = score.run(command_line.parse("score", [*argv, *beam]))
    print("\nThe same as a page, with curves and the images at either end:\n  ", end="", flush=True)
    report.run(command_line.parse("report", [f"--scores={demo.output}", *beam]))
    if metrics := read_facts(demo.output, layout.METRICS):
        print(f"\n{in_words(metrics)}")
    print(_NEXT.format(python=sys.executable, scores=layout.scores_folder(demo.output)))
    print(f"\n{AFTER_DEMO}")
    return code


def in_words(metrics: dict[str, Any]) -> str:
    """What the table shows, in two sentences.

    Args:
      metrics: content of `metrics.json`.
    """
    found = {(row["out_distribution"], row["detector"]): 100 * (1 - row["fpr_at_95_tpr"]) for row in metrics["pairs"]}
    odin, msp = (
        " and ".join(f"{found[source, detector]:.0f} of 100 {things}" for source, things in _FOREIGN.items())
        for detector in ("odin", "msp")
    )
    auroc = next(
        row["auroc"] for row in metrics["pairs"] if (row["out_distribution"], row["detector"]) == ("mnist", "odin")
    )
    return (
        f"In words: if 5 of 100 clothes may be flagged by mistake, ODIN finds {odin}, and the classifier's own "
        f"confidence (msp) {msp}.\nAn AUROC of {100 * auroc:.1f} says that of one digit and one garment, ODIN scores "
        f"the garment higher {100 * auroc:.0f} times out of 100."
    )

"""`odin-beam demo`: the whole tour on the example that ships with the package, no download, no GPU.

A small classifier of Fashion-MNIST articles scores 1,000 of its test images, and as out-of-distribution images 1,000
MNIST digits and 1,000 images of uniform noise. It shows the tool at work, and is not evidence for the method.

    odin-beam demo --output demo-output
"""

import shlex
import sys
from pathlib import Path

from odin_beam.pipeline.flags import command_line
from odin_beam.pipeline.flags.demo import DemoOptions
from odin_beam.pipeline.jobs import report, score
from odin_beam.transforms.tables import layout

_NEXT = """
One Parquet row per image, the source as a hive partition. The ten images least like what the classifier knows:

  {python} -c "import pyarrow.dataset as d
t = d.dataset('{scores}', partitioning='hive').to_table().sort_by('odin').slice(0, 10)
print(*t.select(['source', 'id', 'class_name', 'odin_logit', 'msp']).to_pylist(), sep='\\n')"

or in DuckDB: SELECT source, id, class_name, odin_logit, msp FROM '{scores}/**/*.parquet' ORDER BY odin LIMIT 10;"""
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
    print(_NEXT.format(python=sys.executable, scores=layout.scores_folder(demo.output)))
    return code

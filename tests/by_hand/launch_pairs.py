r"""Launches pairs of `score` on one output, a random moment apart, and looks whether rows of two settings were mixed.

    python -m tests.by_hand.launch_pairs --pairs 20 --seed 1

Half of the pairs have equal settings, the others differ in the temperature; with `--overwrite`, the second run of every
pair with different settings takes the folder over. One line per pair: the offset, for each run its exit code and last
line, and the temperatures in the metadata of the scores files. Exit code 1 if a pair mixed, which is: files of several
temperatures in a folder whose run was reported as complete.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from odin_beam.transforms.tables.scores_file import METADATA_KEY

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "pipeline" / "demo_data"
PATIENCE_SECONDS = 300


def start(output: Path, temperature: int, *more: str) -> subprocess.Popen:
    command = [
        *("score", f"--model={DATA / 'classifier.keras'}", f"--output={output}", f"--temperature={temperature}"),
        f"--in_distribution=fashion={DATA}/fashion_mnist-*",
        f"--out_distribution=mnist={DATA}/mnist-*",
        *("--batch_size=16", "--check=false", *more),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", "odin_beam", *command], cwd=ROOT, **pipes)


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and last line."""
    text, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, text.strip().splitlines()[-1]


def temperatures(output: Path) -> list[float]:
    """Those in the metadata of the scores files."""
    found = set()
    for path in output.glob("scores/*/*.parquet"):
        settings = json.loads(pq.read_metadata(path).metadata[METADATA_KEY])["settings"]
        found.add(settings["odin"]["temperature"])
    return sorted(found)


def pair(output: Path, offset: float, second: int, *more: str) -> tuple[list[tuple[int, str]], list[float], bool]:
    """Exit codes and last lines of both runs, the temperatures in the files, and whether a mixture passed for a run."""
    first = start(output, 1000)
    time.sleep(offset)
    ends = [end(process) for process in (first, start(output, second, *more))]
    found = temperatures(output)
    summary = json.loads((output / "summary.json").read_text()) if (output / "summary.json").exists() else {}
    return ends, found, len(found) > 1 and bool(summary.get("complete"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10, help="largest offset (default: 10)")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args()
    draw, mixtures = random.Random(options.seed), 0
    for number in range(options.pairs):
        offset, second = draw.uniform(0, options.seconds), (1000, 10)[number % 2]
        more = ["--overwrite"] if options.overwrite and second == 10 else []
        with tempfile.TemporaryDirectory(prefix="launch-pairs-") as folder:
            ends, found, mixed = pair(Path(folder) / "out", offset, second, *more)
        mixtures += mixed
        settings = "equal" if second == 1000 else "different"
        runs = "; ".join(f"exit {code}: {line.replace(folder, '')[:110]}" for code, line in ends)
        print(
            f"{number:2} {offset:5.2f} s {settings:9} files of {found} {'MIXED' if mixed else 'pure'} | {runs}",
            flush=True,
        )
    return 1 if mixtures else 0


if __name__ == "__main__":
    sys.exit(main())

r"""How long a run takes to see that all its shards are finished.

    PYTHONPATH=. python benchmarks/resume.py
    PYTHONPATH=. python benchmarks/resume.py --shards 100000

Shards of one image each are scored, which takes the most time and is not what is measured; then one of them is taken
away, and the same command finds the others finished, scores that one and sums up. Seconds of the second run, of these
until the first image is scored, and its peak memory.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.growth import make_archive, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="1000,10000", help="numbers of shards (default: %(default)s)")
    print(f"{'shards':>8}{'first run':>11}{'rerun':>8}{'until scoring':>15}{'peak MB':>9}", flush=True)
    for shards in map(int, parser.parse_args().shards.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{shards:,} shards: scoring them first", file=sys.stderr, flush=True)
            make_archive(Path(folder), shards, shards)
            first, *_ = score(Path(folder))
            last = max(Path(folder).glob("out/scores/*/*.parquet"))
            last.unlink()
            started = time.time()
            again, _, peak = score(Path(folder))
            until = last.stat().st_mtime - started
            print(f"{shards:>8,}{first:>11.1f}{again:>8.1f}{until:>15.1f}{peak:>9.0f}", flush=True)


if __name__ == "__main__":
    main()

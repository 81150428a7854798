r"""Kills runs of `score` at random moments, runs the same command again until it ends, and counts what was lost.

    python -m tests.by_hand.kill_runs --kills 12 --mode in_memory
    python -m tests.by_hand.kill_runs --kills 12 --mode multi_processing

Twenty shards of the embedded example. The victim of `kill -9` is the launcher or, with several processes, one of its
workers; workers of a launcher that was killed are left alone, as they would be. After every kill each scores file has
to be whole, and no rerun may write one again. In the end rows and metrics have to be those of a run that nobody killed.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables import scores_file

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "pipeline" / "demo_data"
MODES = {"in_memory": [], "multi_processing": ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]}
PATIENCE_SECONDS = 300
_ORDER = [("source", "ascending"), ("shard", "ascending"), ("index", "ascending")]


@dataclass
class Runs:
    """Runs of one command, with one output folder.

    Attributes:
      archive: folder of the shards.
      output: the run's folder.
      mode: of `MODES`.
      started: process groups, to be ended when all is over.
    """

    archive: Path
    output: Path
    mode: str
    started: list[int] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        """What stands behind `odin-beam`."""
        return [
            *("score", f"--model={DATA / 'classifier.keras'}"),
            f"--in_distribution=fashion={self.archive}/fashion-*.tfrecord",
            f"--out_distribution=mnist={self.archive}/mnist-*.tfrecord",
            *(f"--output={self.output}", "--batch_size=4", "--check=false", *MODES[self.mode]),
        ]

    def start(self) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "odin_beam", *self.command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # In the background of a script, and under nohup, Ctrl-C comes ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.started.append(process.pid)
        return process

    def committed(self) -> dict[str, tuple[int, int]]:
        """Scores files: name -> inode and time, which a file written again would not keep.

        Raises:
          AssertionError: one is not whole.
        """
        found = {}
        for path in self.output.glob("scores/*/*.parquet"):
            assert scores_file.read_commit(str(path)), f"{path} is not whole"
            stat = path.stat()
            found[path.name] = (stat.st_ino, stat.st_mtime_ns)
        return found

    def rows(self) -> pa.Table:
        return ds.dataset(self.output / "scores", partitioning="hive").to_table().sort_by(_ORDER)

    def left_over(self) -> list[Path]:
        return [path for path in self.output.rglob("*") if writing.TEMPORARY in path.name]

    def end(self) -> None:
        """Ends whatever of these runs is still there."""
        for group in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def make_archive(folder: Path, shards: int = 10) -> None:
    """So many shards of Fashion-MNIST, and as many of MNIST."""
    for name, pattern in (("fashion", "fashion_mnist-*"), ("mnist", "mnist-*")):
        command = [sys.executable, "-m", "odin_beam", "ingest", f"--images={DATA / pattern}.tfrecord"]
        command += [f"--output={folder / name}", f"--shards={shards}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def workers_of(launcher: int) -> list[int]:
    """The launcher's worker processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != launcher:
            try:
                command = (entry / "cmdline").read_bytes()
                same = os.getsid(int(entry.name)) == launcher
            except OSError:
                continue
            if same and b"odin_beam.pipeline.runners.worker_process" in command:
                found.append(int(entry.name))
    return found


def check_end(runs: Runs, expected: pa.Table, metrics: str) -> tuple[int, int]:
    """Rows lost and repeated in the end.

    Raises:
      AssertionError: a row or metric differs, or something temporary is left.
    """
    rows = runs.rows()
    keys = set(zip(*(rows[name].to_pylist() for name in ("source", "shard", "index")), strict=True))
    lost, repeated = expected.num_rows - len(keys), rows.num_rows - len(keys)
    if not lost and not repeated:
        assert rows.equals(expected), "a row differs from that of a run that nobody killed"
    assert (runs.output / "metrics.json").read_text() == metrics, "the metrics differ"
    assert not runs.left_over(), f"left over: {runs.left_over()}"
    return lost, repeated


def main() -> int:
    """Prints one line per kill; 1 where a row was lost or repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--mode", choices=MODES, default="in_memory")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder)
        make_archive(archive)
        reference = Runs(archive, archive / "reference", arguments.mode)
        began = time.monotonic()
        reference.start().communicate(timeout=PATIENCE_SECONDS)
        length = time.monotonic() - began
        expected, metrics = reference.rows(), (reference.output / "metrics.json").read_text()
        print(f"{expected.num_rows:,} rows in 20 shards, {length:.0f} s without a kill\n")
        print(f"{'kill':>4}  {'victim':10}{'at second':>10}{'committed':>11}   what the launcher said")
        kills = rounds = lost = repeated = 0
        while kills < arguments.kills:
            rounds += 1
            runs = Runs(archive, archive / f"round-{rounds}", arguments.mode)
            try:
                kills = kill_until_done(runs, chance, length, kills, arguments.kills)
                gone, twice = check_end(runs, expected, metrics)
            finally:
                runs.end()
            lost, repeated = lost + gone, repeated + twice
            print(f"      done: {gone} rows lost, {twice} repeated", flush=True)
        print(f"\n{arguments.mode}: {kills} kills in {rounds} rounds; rows lost {lost}, repeated {repeated}")
    return 1 if lost or repeated else 0


def kill_until_done(runs: Runs, chance: random.Random, length: float, kills: int, wanted: int) -> int:
    """Starts the command again and again, each time with a kill at some moment, until it ends before that.

    Args:
      runs: of which command.
      chance: draws moments and victims.
      length: seconds of a run without a kill; a moment lies within one and a half times of that.
      kills: so far.
      wanted: how many kills are enough; then the run is left alone.

    Returns:
      Kills by now.
    """
    before: dict[str, tuple[int, int]] = {}
    while True:
        process = runs.start()
        moment = chance.uniform(0, 1.5 * length) if kills < wanted else PATIENCE_SECONDS
        try:
            said, _ = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            victims = [process.pid, *workers_of(process.pid)]
            victim = chance.choice(victims)
            os.kill(victim, signal.SIGKILL)
            kills += 1
            if victim == process.pid:
                process.stdout.close()
                process.wait(PATIENCE_SECONDS)
                name, line = "launcher", ""
            else:
                said, _ = process.communicate(timeout=PATIENCE_SECONDS)
                name, line = "worker", f"{process.returncode}: {said.strip().splitlines()[-1][:90]}"
            after = runs.committed()
            print(f"{kills:>4}  {name:10}{moment:>10.1f}{len(after):>11}   {line}", flush=True)
        else:
            after = runs.committed()
            assert process.returncode == 0, said
        again = [name for name, mark in before.items() if after.get(name) != mark]
        assert not again, f"written again: {again}"
        before = after
        if process.returncode == 0:
            assert json.loads((runs.output / "summary.json").read_text())["complete"]
            return kills


if __name__ == "__main__":
    sys.exit(main())

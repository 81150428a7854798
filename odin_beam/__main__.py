"""`python -m odin_beam JOB ...`, the same as `odin-beam JOB ...`."""

import sys

from odin_beam.pipeline.main import main

if __name__ == "__main__":
    sys.exit(main())

"""What the launcher of the Flex Template runs: `odin-beam score` with the template's parameters.

    python launch_score.py --model=gs://B/classifier.keras --output=gs://B/scores --input='gs://B/archive/*.tfrecord' \
      --runner=DataflowRunner --template_location=gs://B/staging/job ...

The launcher adds options of its own. Everything that is not a flag of `score` goes to the runner untouched, so that an
option that this version of Beam does not know does not fail the job; `metadata.json` has already refused misspelt ones.
"""

import sys
from collections.abc import Sequence

from odin_beam.pipeline.flags.command_line import flags_of
from odin_beam.pipeline.main import main


def command(argv: Sequence[str]) -> list[str]:
    """The launcher's `--NAME=VALUE`s as a command line of `odin-beam`."""
    names = {name for flag in flags_of("score") for name in flag.option_strings}
    ours = [word for word in argv if word.partition("=")[0] in names]
    return ["score", *ours, "--", *(word for word in argv if word not in ours)]


if __name__ == "__main__":
    sys.exit(main(command(sys.argv[1:])))

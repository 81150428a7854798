"""What the launcher of the Flex Template runs: a job of odin-beam, `score` by default, with the template's parameters.

    python launch_job.py --model=gs://B/classifier.keras --output=gs://B/scores --input='gs://B/archive/*.tfrecord' \
      --runner=DataflowRunner --template_location=gs://B/staging/job ...

The launcher adds options of its own. Everything that is not a flag of the job goes to the runner untouched, so that an
option that this version of Beam does not know does not fail the job; `metadata.json` has already refused misspelt ones.
"""

import sys
from collections.abc import Sequence

from odin_beam.pipeline.flags.command_line import flags_of
from odin_beam.pipeline.main import main

JOBS = ("score", "fit")
_JOB = "--job="


def command(argv: Sequence[str]) -> list[str]:
    """The launcher's `--NAME=VALUE`s as a command line of `odin-beam`.

    A flag of another job of the template is left to the job's parser, which refuses it.
    """
    job = next((word.removeprefix(_JOB) for word in argv if word.startswith(_JOB)), JOBS[0])
    known = {name for of in JOBS for flag in flags_of(of) for name in flag.option_strings}
    ours = [word for word in argv if word.partition("=")[0] in known]
    rest = [word for word in argv if word not in ours and not word.startswith(_JOB)]
    return [job, *ours, "--", *rest]


if __name__ == "__main__":
    sys.exit(main(command(sys.argv[1:])))

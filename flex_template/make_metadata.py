"""Makes `metadata.json` of the Flex Template from the flags of its jobs: every flag is a parameter.

python -m flex_template.make_metadata > flex_template/metadata.json
"""

import argparse
import json

from flex_template.launch_job import JOBS
from odin_beam.pipeline.flags.command_line import flags_of

_PATHS = ("model", "output", "reference")
# Beam's own options that are worth setting each time a template is started.
_BEAM = {
    "sdk_container_image": "image of the workers: the one that the template was built from",
    "disk_size_gb": "size of a worker's disk, in GB (default: 100)",
    "number_of_worker_harness_threads": "number of shards that a worker scores at once (default: 4)",
}


def metadata() -> dict:
    """The content of `metadata.json`."""
    job = _parameter("job", f"what to run: {' or '.join(JOBS)} (default: {JOBS[0]})", required=False)
    beam = [_parameter(name, text, required=name == "sdk_container_image") for name, text in _BEAM.items()]
    return {
        "name": "odin-beam",
        "description": "Scores images for how far they lie outside what a Keras classifier was trained on: "
        "one Parquet row per image, and detection metrics. Or fits detectors to in-distribution images.",
        "parameters": [job, *_of_jobs(), *beam],
    }


def _of_jobs() -> list[dict]:
    """The flags of all jobs; required if all of them require it, and if they differ, described for each."""
    flags: dict[str, dict[str, argparse.Action]] = {}
    for job in JOBS:
        for flag in flags_of(job):
            flags.setdefault(flag.dest, {})[job] = flag
    parameters = []
    for name, of_jobs in flags.items():
        texts = {job: _text(flag) for job, flag in of_jobs.items()}
        if len(set(texts.values())) == 1:
            only = "" if len(texts) == len(JOBS) else f"{next(iter(texts))} only: "
            text = only + next(iter(texts.values()))
        else:
            text = "; ".join(f"{job}: {text}" for job, text in texts.items())
        required = len(of_jobs) == len(JOBS) and all(flag.required for flag in of_jobs.values())
        parameter = _parameter(name, text, required)
        if name in _PATHS:
            parameter["regexes"] = ["^gs://.+$"]
        parameters.append(parameter)
    return parameters


def _text(flag: argparse.Action) -> str:
    return (f"{flag.metavar}: " if isinstance(flag.metavar, str) else "") + flag.help


def _parameter(name: str, text: str, required: bool) -> dict:
    return {"name": name, "label": name.replace("_", " "), "helpText": text, "isOptional": not required}


if __name__ == "__main__":
    print(json.dumps(metadata(), indent=2))

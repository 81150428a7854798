"""Makes `metadata.json` of the Flex Template from the flags of `odin-beam score`: every flag is a parameter.

python flex_template/make_metadata.py > flex_template/metadata.json
"""

import argparse
import json

from odin_beam.pipeline.flags.command_line import flags_of

_PATHS = ("model", "output")
# Beam's own options that are worth setting each time a template is started.
_BEAM = {
    "sdk_container_image": "image of the workers: the one that the template was built from",
    "disk_size_gb": "size of a worker's disk, in GB (default: 100)",
    "number_of_worker_harness_threads": "number of shards that a worker scores at once (default: 4)",
}


def metadata() -> dict:
    """The content of `metadata.json`."""
    beam = [_parameter(name, text, required=name == "sdk_container_image") for name, text in _BEAM.items()]
    return {
        "name": "odin-beam score",
        "description": "Scores images for how far they lie outside what a Keras classifier was trained on: "
        "one Parquet row per image, and detection metrics.",
        "parameters": [_of_flag(flag) for flag in flags_of("score")] + beam,
    }


def _of_flag(flag: argparse.Action) -> dict:
    metavar = f"{flag.metavar}: " if isinstance(flag.metavar, str) else ""
    parameter = _parameter(flag.dest, metavar + flag.help, flag.required)
    if flag.dest in _PATHS:
        parameter["regexes"] = ["^gs://.+$"]
    return parameter


def _parameter(name: str, text: str, required: bool) -> dict:
    return {"name": name, "label": name.replace("_", " "), "helpText": text, "isOptional": not required}


if __name__ == "__main__":
    print(json.dumps(metadata(), indent=2))

"""The kinds of sources: each file of this folder is one, with its lister."""

import importlib
import pkgutil

from odin_beam.pipeline.launch.source_pattern import SourceKind


def _find() -> dict[str, SourceKind]:
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    kinds = [importlib.import_module(f"{__name__}.{name}").KIND for name in names]
    return {kind.prefix: kind for kind in sorted(kinds, key=lambda kind: kind.step)}


# By prefix, in the order of the help.
KINDS = _find()

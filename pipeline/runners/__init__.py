"""Where a pipeline runs: local processes, Dataflow, other Beam runners."""

"""Shards: what they are, one file for each kind of content, and the manifest that lists a run's shards."""

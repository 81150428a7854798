"""What a shard is, one file per kind of content, and the manifest that lists a run's shards."""

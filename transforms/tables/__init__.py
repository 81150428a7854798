"""The Parquet and JSON files of a run: their paths, their schemas, how they are committed and read."""

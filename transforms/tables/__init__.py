"""The Parquet files of a run: where they lie, their schemas, how they are committed and read."""

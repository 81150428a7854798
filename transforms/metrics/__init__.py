"""From scores to detection metrics, in memory that does not grow with the archive."""

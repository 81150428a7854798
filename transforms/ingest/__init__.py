"""Images in folders and archives become TFRecord shards."""

"""Turns images in folders and archives into TFRecord shards."""

"""Shards in, committed scores files out."""

"""Turns shards into committed scores files."""

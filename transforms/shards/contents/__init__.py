"""The kinds of content a shard can have: one file for each, all implementing the protocol in `content`."""

"""What a shard can consist of: each file of this folder is one kind, behind the protocol in `content`."""

"""From anywhere to rows: the hub, local files and their readers, pinning of revisions."""

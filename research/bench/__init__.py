"""`calico bench`: times and faults of an installation, one command per file."""

"""Storage: the journal of events, the database it is in, versions, and kept answers."""

"""Steps that bring a database of any released version to the current tables."""

"""Which label of a closed set a region has: classifiers and their fusion."""

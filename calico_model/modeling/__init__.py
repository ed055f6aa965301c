"""The network: pure modules, no files, no image decoding."""

"""How predictions are judged: matching, metrics, protocol and report."""

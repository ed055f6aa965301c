"""`python -m backend.cli` is `calico`."""

from backend.cli import main

main()

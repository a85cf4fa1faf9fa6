"""`python -m esam_rt`."""

from .cli import main

main()

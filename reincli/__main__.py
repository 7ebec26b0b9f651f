"""`python -m reincli` is `rein`."""

from reincli.cli import main

main()

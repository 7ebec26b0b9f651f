"""`python -m reincli` and `rein`: Ctrl-C is quiet also while the program is still being imported."""

import os
import sys


def main() -> None:
    """Import the program and run it."""
    try:
        from reincli.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.stderr.flush()
        os._exit(130)


if __name__ == "__main__":
    main()

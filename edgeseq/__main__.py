"""`python -m edgeseq`: the command line, where the script is not on the path."""

from __future__ import annotations

from edgeseq.cli import main

if __name__ == "__main__":
    main()

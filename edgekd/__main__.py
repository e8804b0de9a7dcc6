"""`python -m edgekd` is `edgekd`."""

from edgekd.cli import main

if __name__ == "__main__":
    main()

"""The version of edgekd: written here once, read by the build, the CLI and every report."""

__version__ = "0.1.0"

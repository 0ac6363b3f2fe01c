"""The command line: the hot path on the standard library alone, the rest through `client` and, lazily, `admin`."""

"""The command line. `hot` is `run`: socket and JSON, nothing heavy; everything else is in `commands`, imported when
asked for.
"""

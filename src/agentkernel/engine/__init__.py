"""Carries out what the pool decides, against drivers. The only room with tasks, a clock and deadlines.

One task per sandbox holds the driver's block open; leaving it is the sandbox's end. Callers get a sandbox by
`Engine.lend`, run commands in it by `run_command`, and give it back; destruction and refilling happen beside them. What
a request may have is decided before it comes here (`policy`), how it is spelled is a door's business.
"""

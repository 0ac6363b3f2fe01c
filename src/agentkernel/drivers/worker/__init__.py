"""The guest's side of the link in Python, for sandboxes without a Linux of their own.

It runs inside a confinement, in place of the C agent: `main` serves one socket, `peer` listens there with one thread,
`run` is one program on its channel, `transfers` moves files of a private `tree`. What executes programs is an `Engine`
(`execution`), and each driver brings its own. `programs` says what such sandboxes run; `place`, `launch`, `guest` and
`trial` are for the drivers, outside.

Nothing is imported here: a worker starts with this package, and starts quickly.
"""

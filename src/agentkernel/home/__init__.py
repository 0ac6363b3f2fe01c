"""Where a user's agentkernel is on this host, and what its configuration says.

Decides nothing: it finds the places, reads the file and makes the drivers that the configuration describes, for the
daemon and for the commands that do without one. What the configuration means is `policy`'s.
"""

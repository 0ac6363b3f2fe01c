"""Runs inside the confinement: the guest's side of the link, a private file tree, and WebAssembly instances.

One thread listens (`peer`), and one thread per program executes (`run`). What they share is `Peer.lock`.
"""

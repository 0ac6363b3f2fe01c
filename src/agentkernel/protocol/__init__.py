"""The daemon's JSON messages: bytes to requests, replies to bytes.

Decides what a well-formed request is, in which order fields stand, what is left out, and how output becomes text
under a cap. Leaves to others whether a request may be carried out (`policy`) and everything that happens (`engine`).
Pure: no socket, no task, no clock. The reference is docs/reference/protocol.md; a test compares its tables with the
structs here, both ways.
"""

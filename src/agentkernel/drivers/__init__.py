"""Backends: each makes a byte stream to something that speaks the guest link, and ends it.

A driver decides how a sandbox is made on this host and what it can do there. Which sandbox, when, for whom and for how
long is the engine's and the pool's business. Two drivers never import each other; what they share is in this folder.
"""

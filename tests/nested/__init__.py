"""What needs a working KVM, in a host that has one: see `host.py`."""

"""What drivers need alike that boot a kernel of its own under the supervisor, so that none imports another: all of it
QEMU and Firecracker, the last two gVisor too.

`files` are sockets and disks of one machine, `made_for` says what a saved state fits, `hardware` what the host's
processor promises, `trials` remembers what a boot proved, `coming_up` holds a boot to its deadline and explains its
failure. What a monitor is told, and how, is its own driver's business.
"""

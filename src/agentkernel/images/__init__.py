"""Find, build and verify what sandboxes are made from: tools, kernel, initramfs, root file systems, blank disks.

Decides what is needed on this host, where it comes from, and whether what lies in the data folder is what was put
there. It leaves to others who wants which image (`engine`), how a VMM is started with it (`drivers`), and how progress
looks to a person (`admin`).

Everything comes from the host's own package sources through apt, which checks the archive's signatures; everything is
kept below one folder, keyed by digest, made beside its place and renamed into it, and may be deleted at any time.
"""

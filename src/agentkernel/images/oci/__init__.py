"""Images that are no recipe of ours: found by name, fetched, verified, and unpacked into a root file system.

Decides what a name means, which layers it takes, and what a layer's entries become. It leaves to `images` where
artefacts lie, and to the drivers what is done with them. Whatever a stranger wrote is unpacked in private namespaces,
chrooted into the tree that it makes, without the capabilities that it does not take (`unpack`).

Source: the OCI image, image layout and distribution specifications, 1.1.
"""

"""Python and JavaScript in Hyperlight's micro-VMs: the wasm backend's worker with another engine inside.

`driver` makes a confined worker per sandbox, which gets `/dev/kvm`. `worker` is what runs there: one process per
machine, because Hyperlight's package holds the interpreter's lock while a program runs and offers no way to stop one.
`guests` is what each machine runs before its snapshot is taken: streams, files and exits, by calls to its process.
"""

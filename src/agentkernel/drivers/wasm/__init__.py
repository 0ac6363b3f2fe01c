"""Programs as WebAssembly: Python, JavaScript, and any WASI command, by wasmtime in a confined worker process.

`driver` makes a worker per sandbox and speaks the guest link with it. `worker` is what runs inside the confinement, in
place of the C agent: the guest's side of the link, a private file tree, and instances. `engine` is what both must agree
on, so that code which one compiles ahead is code that the other runs. `programs` says what can be run.

Nothing is imported here: the worker starts with this package too, and starts quickly.
"""

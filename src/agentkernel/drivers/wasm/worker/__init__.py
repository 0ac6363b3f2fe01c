"""What executes programs inside the confinement: WebAssembly instances, one thread each."""

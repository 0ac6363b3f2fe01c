"""What executes programs inside the confinement: micro-VMs, one process each."""

"""How wasmtime is configured, as data: part of the key of everything that is compiled ahead."""

from __future__ import annotations

CONFIGURATION: dict[str, int | bool] = {
    "epoch_interruption": True,
    "memory_reservation": 32 << 20,
    "memory_guard_size": 64 << 10,
    "max_wasm_stack": 1 << 20,
}
"""Name to value, as `wasmtime.Config` calls them.

epoch_interruption: programs can be stopped. memory_reservation: a hundred instances at once need no terabytes of
address space; memories that outgrow it move.
"""

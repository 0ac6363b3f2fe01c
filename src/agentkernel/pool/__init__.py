"""Which sandbox is lent, booted, destroyed: `Pool.feed(event, now_s) -> commands`.

Pure: no clock (time comes with each event), no task, no driver. The pool decides; the engine carries out and reports
back. It owns the limits (per key and per host), the fair queue, ages, and what happens after failures. It knows
nothing of leases, commands or files.
"""

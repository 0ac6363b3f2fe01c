"""What a reader should know of this driver."""

from agentkernel.model.kinds import Isolation
from agentkernel.model.readiness import About

ABOUT = About(
    makes="fresh WebAssembly instances, in a confined worker",
    tiers=(Isolation.WASM,),
    needs="Linux; `pip install 'agentkernel[wasm]'`; to make Python's component once, network to PyPI",
    tested="wasmtime 50 on x86-64, as root; never on aarch64, nor as an ordinary user",
    lacks="programs that are not Python, JavaScript or WASI modules; threads, processes and sockets in them",
)

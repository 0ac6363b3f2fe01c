"""What a reader should know of this driver."""

from agentkernel.model.kinds import Isolation
from agentkernel.model.readiness import About

ABOUT = About(
    makes="Hyperlight's micro-VMs, one for each program, restored from a snapshot, in a confined worker",
    tiers=(Isolation.VM,),
    needs="Linux on x86-64; KVM that works; `pip install 'agentkernel[hyperlight]'`",
    tested="hyperlight-sandbox 0.8 on an emulated processor with AMD's virtualisation, as root; never on real hardware",
    lacks="programs that are not Python or JavaScript; much of Python's standard library; threads, processes, sockets",
)

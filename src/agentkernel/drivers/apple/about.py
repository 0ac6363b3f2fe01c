"""What a reader should know of this driver."""

from agentkernel.model.kinds import Isolation
from agentkernel.model.readiness import About

ABOUT = About(
    makes="a container of Apple's, in a virtual machine of its own",
    tiers=(Isolation.VM,),
    needs="macOS 26 or later on Apple silicon; Apple's `container` 1.0 or later, its services started",
    tested="a stand-in of its command line, on Linux; never the real program, nor macOS",
    lacks="runtimes: it runs images by name only; a limit of processes",
)

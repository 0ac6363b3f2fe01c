"""`python -m agentkernel.daemon`."""

from agentkernel.daemon.app import main

raise SystemExit(main())

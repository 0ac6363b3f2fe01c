"""`python -m agentkernel`."""

from agentkernel.cli.hot import main

raise SystemExit(main())

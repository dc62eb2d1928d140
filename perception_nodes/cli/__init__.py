"""The command line: `perception COMMAND`, one file a command group."""

"""Talk to people: the `protoocc` command."""

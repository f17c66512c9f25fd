"""What may be done about fast weights that diverge; needs no framework."""

POLICIES = ("ignore", "reset", "freeze")

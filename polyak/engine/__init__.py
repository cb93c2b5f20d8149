"""How a rule becomes a step: read once (trace), then run eagerly or as one kernel."""

"""From the outbox to the sink: when, by whom, what became of it."""

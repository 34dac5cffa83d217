"""What can be seen: counters, health, metrics, log lines."""

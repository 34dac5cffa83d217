"""What runs a process: the log, forks, the end."""

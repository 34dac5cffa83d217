"""What was accepted and has not ended yet, on disk or in memory."""

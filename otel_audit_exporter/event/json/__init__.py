"""Any value as JSON, exactly."""

"""Health, figures and dead letters over HTTP."""

"""An audit event: its fields, and its bytes from the call on."""

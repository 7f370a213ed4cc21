"""The operators' console: its frame, the dashboard and the breakers' pages."""

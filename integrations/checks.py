"""System checks of the configuration: `manage.py check`."""

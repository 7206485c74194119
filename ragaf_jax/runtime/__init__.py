"""The devices that a command runs on, or is only compiled for."""

"""Records of a run: logs, timers, profiles, the condition response."""

"""What a run records of itself: logs, timers, profiles, the condition response."""

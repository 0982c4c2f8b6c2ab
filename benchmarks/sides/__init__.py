"""The programs that are measured, steep among them, each behind the same calls."""

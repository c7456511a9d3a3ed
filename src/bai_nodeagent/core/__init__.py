"""The loop that keeps resources in line: passes, schedule, status, report, metrics."""

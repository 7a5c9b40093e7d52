"""What people correct in a run: kept as rows that are only ever added, and the groups that come of it."""

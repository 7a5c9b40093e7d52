"""A run taken away: tables, folders, pages and models that other programs read."""

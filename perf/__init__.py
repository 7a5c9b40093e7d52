"""Speed measurements: ratios taken side by side in one run. Run with ``make bench``."""

"""Former module of :func:`kinfold.rows.readers.resident_rows`."""

from kinfold.rows.readers import resident_rows as resident_rows

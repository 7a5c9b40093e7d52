"""Former module of :class:`kinfold.rows.readers.UnitRows`."""

from kinfold.rows.readers import UnitRows as UnitRows

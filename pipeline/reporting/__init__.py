"""How measured numbers are shown: tables, charts, grids, one HTML page. Nothing is measured here."""

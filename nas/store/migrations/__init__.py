"""Alembic migrations of the results database; `nas db upgrade` runs them."""

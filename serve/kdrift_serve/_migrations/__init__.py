"""Versions of the table of jobs, in Alembic's form."""

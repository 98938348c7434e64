"""The first tables: jobs, and the services that run them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both."""
    op.create_table(
        "serve_jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("key", sa.String(80), nullable=False),
        sa.Column("service", sa.String(32), nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("changed", sa.Float(53), nullable=False),
        sa.Column("cancel", sa.Boolean, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
    )
    op.create_index("serve_jobs_by_state", "serve_jobs", ["state", "service"])
    op.create_index("serve_jobs_by_key", "serve_jobs", ["key", "created"])
    op.create_table(
        "serve_services",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("seen", sa.Float(53), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
    )

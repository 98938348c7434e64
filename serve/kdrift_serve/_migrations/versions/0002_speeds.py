"""How fast samplers of a kind ran a method with a prior."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "serve_speeds",
        sa.Column("prior", sa.String(64), primary_key=True),
        sa.Column("method", sa.String(40), primary_key=True),
        sa.Column("samplers", sa.String(80), primary_key=True),
        sa.Column("image_s", sa.Float(53), nullable=False),
        sa.Column("slice_s", sa.Float(53), nullable=False),
    )

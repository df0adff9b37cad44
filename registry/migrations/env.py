"""Alembic's way in: it works on the connection that it is given, and commits nothing."""

from alembic import context

from registry.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()

"""The schema: the contract between receiver and processor, brought up to date by Alembic."""

"""Keeping the ledger: backups, restoring them, moving it to another database, and looking whether it is sound."""

"""Keeping what was collected: segments compacted, what is old let go, what a crash left swept away; backups, restoring
them, moving the ledger to another database, and looking whether it is sound."""

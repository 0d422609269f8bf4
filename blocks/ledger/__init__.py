"""The ledger: records in SQL, results in Parquet, events, and the queries over all of them."""

from blocks.ledger.database import Ledger, open_ledger
from blocks.ledger.events import clock, record
from blocks.ledger.schema import now

__all__ = ["Ledger", "clock", "now", "open_ledger", "record"]

"""The ledger's fixtures, for this folder."""

from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_fixtures import postgres as postgres

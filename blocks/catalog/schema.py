"""The catalog's JSON Schema, for editors. It is committed beside the YAML.

python -m blocks.catalog.schema > deployments/catalog/schema.json
"""

from __future__ import annotations

import json
from typing import Any

from blocks.catalog.models import Catalog


def export_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one catalog file: any of the sections, each optional."""
    schema = Catalog.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "commonfleet catalog",
        "description": "Any of the sections, each optional: they may be spread over the files of a folder.",
    }


def schema_text() -> str:
    """What is committed as `deployments/catalog/schema.json`."""
    return json.dumps(export_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")

"""Write pipeline/config/networks.json, which `maskmill models` lists, from the networks: `python -m tests.network_sizes`."""

import json
from dataclasses import asdict

from pipeline.config.networks import TABLE
from pipeline.models.listing import counted

if __name__ == "__main__":
    lines = ",\n".join(json.dumps(asdict(row)) for row in counted())
    TABLE.write_text(f"[\n{lines}\n]\n")

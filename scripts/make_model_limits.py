"""Make src/bursar/pricing/data/model_limits.json: what each model takes and gives, and a second opinion on its price.

    pip download --no-deps litellm
    python scripts/make_model_limits.py litellm-*.whl "$(date +%F)"

The source is the JSON table inside LiteLLM's wheel (MIT licensed outside its `enterprise` directory); what is kept of
it is decided in bursar.pricing.limits_source.
"""

from __future__ import annotations

import json
import sys
import zipfile
from decimal import Decimal
from pathlib import Path

from bursar.pricing.limits_source import COLUMNS, UNBOUNDED_NAME, limits_rows

TABLE = Path(__file__).parent.parent / "src" / "bursar" / "pricing" / "data" / "model_limits.json"
SOURCE_FILE = "litellm/model_prices_and_context_window_backup.json"


def main(wheel: Path, made_on: str) -> None:
    """Read the wheel and write the table; `made_on` (YYYY-MM-DD) is the day on which the wheel was the newest."""
    with zipfile.ZipFile(wheel) as archive:
        models = json.loads(archive.read(SOURCE_FILE), parse_float=Decimal)
        licence = next(name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        notice = archive.read(licence).decode()
    version = wheel.name.split("-")[1]
    table = limits_rows(models)
    TABLE.write_text(render(version, made_on, notice, table), encoding="utf-8")
    print(f"{TABLE}: {sum(map(len, table.values()))} models from LiteLLM {version}")


def render(version: str, made_on: str, notice: str, table: dict[str, dict[str, list[int]]]) -> str:
    """Write the table with one model a line, so that a refresh is easy to review."""
    head = {
        "made_on": made_on,
        "source": f"LiteLLM {version}, model_prices_and_context_window_backup.json",
        "licence": "MIT (the parts used here are outside the enterprise directory)",
        "notice": notice[notice.index("MIT License") :].strip(),
        "made_by": "scripts/make_model_limits.py",
        "unbounded_names": UNBOUNDED_NAME.pattern,
        "columns": COLUMNS,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    blocks = []
    for provider, rows in sorted(table.items()):
        body = ",\n".join(f"      {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
        blocks.append(f"    {json.dumps(provider)}: {{\n{body}\n    }}")
    return "{\n" + "\n".join(lines) + '\n  "models": {\n' + ",\n".join(blocks) + "\n  }\n}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

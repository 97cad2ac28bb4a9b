"""`python -m hpo.schema` writes the JSON schema of study files, which editors use to complete and check them."""

import argparse
import json
from pathlib import Path

from hpo.spec import StudySpec

SCHEMA = Path("studies/schema.json")


def study_schema() -> str:
    """The schema as text; `name` has a default (the file's name) and `fallback_for` is the program's own."""
    schema = StudySpec.model_json_schema()
    schema["required"].remove("name")
    del schema["properties"]["fallback_for"]
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hpo.schema", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=SCHEMA, help=f"default: {SCHEMA}")
    path = parser.parse_args().path
    path.write_text(study_schema(), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

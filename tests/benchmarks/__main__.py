"""`python -m tests.benchmarks NAME [--short] [--json FILE]`: runs one benchmark; without a name lists them."""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The modules beside this one that can be run."""
    found = (path for path in FOLDER.glob("*.py") if path.name != "__main__.py")
    return sorted(path.stem for path in found if "\ndef main(" in path.read_text())


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in names():
        raise SystemExit(f"usage: python -m tests.benchmarks NAME [--short] [--json FILE]\nNAME: {', '.join(names())}")
    importlib.import_module(f"tests.benchmarks.{sys.argv[1]}").main(sys.argv[2:])

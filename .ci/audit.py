"""Ask for known vulnerabilities of the pinned versions. Where nobody can be asked, say so and go on.

Fails only when a pinned version has one.
"""

import json
import subprocess
import sys
from typing import Any

COMMAND = ["-m", "pip_audit", "-r", "constraints.txt", "--no-deps", "--disable-pip", "-f", "json"]
LONGEST = 120


def main() -> int:
    """Return the exit status."""
    try:
        done = subprocess.run(
            [sys.executable, *COMMAND, "--progress-spinner", "off"], capture_output=True, text=True, timeout=LONGEST
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("pip-audit: NOT DONE, its source could not be reached")
        return 0
    audited = [row for row in found if "skip_reason" not in row]
    weak = [row for row in audited if row.get("vulns")]
    if not audited:
        print(f"pip-audit: NOT DONE, its source knows none of the {len(found)} pinned packages")
    else:
        print(f"pip-audit: {len(audited)} of {len(found)} pinned packages audited, {len(weak)} vulnerable")
    for row in weak:
        print(f"  {row['name']} {row['version']}: {', '.join(v['id'] for v in row['vulns'])}")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())

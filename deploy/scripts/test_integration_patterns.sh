#!/usr/bin/env bash
# Real requests against a running Citadel, in all three patterns: ./test_integration_patterns.sh --all-patterns --verbose
# Options: manage.py test_integration_patterns --help. PYTHON names another interpreter than the project's .venv.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$project/.venv/bin/python}
[ -x "$python" ] || python=python3
exec "$python" "$project/manage.py" test_integration_patterns "$@"

#!/usr/bin/env bash
# Measures RAGAF-JAX at the size of Stable Diffusion 1.5 on one GPU or TPU chip, in at most 8 minutes.
#
#   bash benchmarks/device.sh --json=device.json              # all parts that fit into the time
#   bash benchmarks/device.sh --json=rest.json step-2-32      # only the named parts
#   bash benchmarks/device.sh --tiny                          # a dry run on the CPU with meaningless figures
#
# It needs a GPU with at least 24 GiB, or a TPU, but no network, data or checkpoint: weights are random.
# PYTHON=<interpreter> selects another Python than the checkout's .venv or python3.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

python=${PYTHON:-}
if [[ -z $python ]]; then
  python=python3
  [[ -x $root/.venv/bin/python ]] && python=$root/.venv/bin/python
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $python is not a Python of version 3.11 or newer; name one: PYTHON=python3.12 bash $0" >&2
  exit 1
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m benchmarks.device.run "$@"

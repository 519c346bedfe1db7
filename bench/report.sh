#!/bin/bash
#
# report.sh [RESULTS]: makes docs/performance.md's tables and its chart of a run
# of the benchmark; without RESULTS, of the one that they were made of last.

set -euo pipefail
BENCH=$(cd "$(dirname "$0")" && pwd -P)
# shellcheck source=scripts/lib.sh
. "$BENCH/../scripts/lib.sh"

DOCS=$TOP/docs
if [ $# -gt 0 ] && ! [ "$1" -ef "$DOCS/performance.tsv" ]; then
	cp "$1" "$DOCS/performance.tsv"
fi
install_packages gnuplot-nox
"$BENCH/report.pl" --into "$DOCS/performance.md" "$DOCS/performance.tsv"
"$BENCH/report.pl" --chart "$DOCS/performance.tsv" | gnuplot >"$DOCS/performance.svg"

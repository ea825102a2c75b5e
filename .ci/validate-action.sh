#!/usr/bin/env bash
# What the GitHub Action runs: annotations for the pull request, a summary for the job, SARIF where asked for.
# Everything it is told comes as environment variables; the exit code is adaptool's.
set -uo pipefail

mapfile -t paths < <(grep -v '^[[:space:]]*$' <<<"${PATHS:-.}")
options=()
[ -n "${FOR:-}" ] && options+=(--for "$FOR")
[ -n "${MAX_RANK:-}" ] && options+=(--max-rank "$MAX_RANK")
[ -n "${FAIL_ON:-}" ] && options+=(--fail-on "$FAIL_ON")
[ -n "${CONFIG:-}" ] && options+=(--config "$CONFIG")

validate() { "${ADAPTOOL:-adaptool}" validate "${options[@]}" "$@" -- "${paths[@]}"; }

validate --format github
code=$?
[ -n "${GITHUB_STEP_SUMMARY:-}" ] && validate --format markdown >>"$GITHUB_STEP_SUMMARY"
[ -n "${SARIF:-}" ] && validate --format sarif >"$SARIF"
exit "$code"

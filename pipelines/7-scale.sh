#!/usr/bin/env bash
# Pipeline 7: more or fewer workers, for the speed-up experiment.
#
#   PROJECT=my-project-123 bash pipelines/7-scale.sh 5              five worker VMs
#   PROJECT=my-project-123 bash pipelines/7-scale.sh 0 --pods 8     no VMs, eight worker pods
#   PROJECT=my-project-123 bash pipelines/7-scale.sh 5 --dry-run    prints the calls
#
# A worker that is removed finishes its band first. If no node has room for a pod, the autoscaler adds one, and the pod waits
# for it. To reset the numbers run 5-workers.sh (to WORKERS) and 3-services.sh (to the manifests').
# Costs about 0.07 USD an hour for each e2-standard-2, 0.13 for each additional node.
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
pods=""
case ${#arguments[@]} in
  1) ;;
  3)
    [ "${arguments[1]}" = --pods ] || die "unknown argument ${arguments[1]}; expected N [--pods M]"
    pods="${arguments[2]}"
    ;;
  *) die "expected N [--pods M], got ${arguments[*]:-nothing}" ;;
esac
[[ "${arguments[0]}" =~ ^[0-9]{1,4}$ ]] || die "N: expected a number of VMs, got ${arguments[0]}"
[[ "$pods" =~ ^[0-9]{0,4}$ ]] || die "--pods: expected a number of pods, got $pods"
export WORKERS="${arguments[0]}"
begin gcloud terraform kubectl gke-gcloud-auth-plugin

say "Pipeline 7: scale to $WORKERS worker VMs${pods:+ and $pods worker pods}
  Costs about 0.07 USD an hour for each e2-standard-2. Takes about four minutes for new VMs.
"
signed_in
synthesize gke firewalls workers
need gke 1-gke.sh
need firewalls 4-firewalls.sh
need workers 5-workers.sh
images sobel-worker # a new TAG replaces the VMs
cluster
if [ -n "$pods" ]; then
  step "$pods worker pods"
  ask scalers "" kubectl --namespace=sobel get horizontalpodautoscalers --output=name
  [ -z "$scalers" ] || die "an autoscaler sets the number of pods: $scalers
Delete it or change its limits, then run this again"
  run kubectl --namespace=sobel scale deployment/worker --replicas="$pods"
  run kubectl --namespace=sobel rollout status deployment/worker --timeout=10m
fi
worker_group "$WORKERS"
say "
Next: bash pipelines/6-smoke.sh URL; when you are done: bash pipelines/9-destroy.sh"

#!/usr/bin/env bash
# Pipeline 9: destroys everything, and checks that nothing is left that costs money. Ten to fifteen minutes.
#
#   PROJECT=my-project-123 bash pipelines/9-destroy.sh              asks first
#   PROJECT=my-project-123 bash pipelines/9-destroy.sh --yes        does not ask
#   PROJECT=my-project-123 bash pipelines/9-destroy.sh --dry-run    prints the calls
#
# Destroys the VMs first, then what Kubernetes created outside the cluster (load balancers, disks; they would outlive it),
# then the rest. Jobs, results, images and passwords are lost. The last lines list what is kept.
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
yes=false
for argument in ${arguments[@]+"${arguments[@]}"}; do
  [ "$argument" = --yes ] || die "unknown argument $argument; expected nothing, --yes, --dry-run or --help"
  yes=true
done
begin gcloud terraform kubectl gke-gcloud-auth-plugin

say "Pipeline 9: the end
  Destroys the worker VMs, the cluster with all jobs and results, the images, the passwords and the network
  of project $PROJECT. Takes ten to fifteen minutes.
"
if ! $yes && ! $DRY_RUN; then
  read -r -p "Type the project's id to continue: " typed || typed=""
  [ "$typed" = "$PROJECT" ] || die "expected $PROJECT, got ${typed:-nothing}; nothing was destroyed"
fi
signed_in
synthesize workers firewalls gke network

# fell STACK [-var=NAME=VALUE...]: destroys it, if it exists. Terraform itself would first read the stacks that it depends on,
# which may not exist.
fell() {
  local stack="$1"
  shift
  step "without the stack $stack"
  if exists "$stack"; then
    run terraform -chdir="$stacks/$stack" destroy -input=false -auto-approve "$@"
  else
    say "    does not exist"
  fi
}

step "the cluster is not protected"
[[ "${known[gke]}" != *'"deletion_protection":true'* ]] || die "the cluster has DELETION_PROTECTION=true. To remove the protection:
  DELETION_PROTECTION=false bash pipelines/1-gke.sh"

# Destroying needs no addresses, but Terraform requires a value for each variable.
none=(-var=rabbitmq_address=10.10.0.0 -var=redis_address=10.10.0.0)
fell workers "${none[@]}" -var=rabbitmq_username=none

step "what Kubernetes created outside the cluster"
location=""
! exists gke || ask location "<location>" gcloud container clusters list --filter=name=sobel --format='value(location)' \
  --project="$PROJECT"
if [ -z "$location" ]; then
  say "    there is no cluster"
else
  run gcloud container clusters get-credentials sobel --location="$location" --project="$PROJECT" --dns-endpoint
  # Kubernetes deletes the load balancers and disks of a namespace before the namespace itself.
  run kubectl delete namespace sobel --ignore-not-found --timeout=10m
  say "    until its disks are deleted too:"
  for ((tries = 0; ; tries++)); do
    ask volumes "" kubectl get persistentvolumes \
      --output=jsonpath='{range .items[?(@.spec.claimRef.namespace=="sobel")]}{.metadata.name} {end}'
    [ -n "$volumes" ] || break
    [ "$tries" -lt 60 ] || die "after 5 minutes these volumes still exist: $volumes; see: kubectl describe persistentvolumes"
    sleep "${POLL_SECONDS:-5}"
  done
fi

fell firewalls "${none[@]}"
fell gke
fell network

# left WHAT COMMAND...: prints and counts what still exists.
remains=0
left() {
  local what="$1"
  shift
  ask found "" "$@" --project="$PROJECT" || die "cannot list the $what; see the error above"
  [ -n "$found" ] || return 0
  remains=$((remains + 1))
  say "    LEFT: $what: $(tr '\n' ' ' <<<"$found")"
}
step "nothing is left that costs money"
named="name~^(gke-)?sobel"
left "instances" gcloud compute instances list --filter="$named" --format='value(name,zone)'
left "groups of instances" gcloud compute instance-groups list --filter="$named" --format='value(name)'
left "disks" gcloud compute disks list --format='value(name,zone)' \
  --filter="$named OR labels.goog-k8s-cluster-name=sobel OR description~namespace.*sobel"
left "load balancers" gcloud compute forwarding-rules list --format='value(name)' \
  --filter="network~/sobel$ OR description~sobel/"
left "addresses" gcloud compute addresses list --filter="name~sobel OR network~/sobel$" --format='value(name)'
left "clusters" gcloud container clusters list --filter="name=sobel" --format='value(name,location)'
left "routers with NAT" gcloud compute routers list --filter="name=sobel" --format='value(name)'
left "name zones" gcloud dns managed-zones list --filter="name~^sobel" --format='value(name)'
left "registries" gcloud artifacts repositories list --location=all --filter="name~/sobel$" --format='value(name)'
left "secrets" gcloud secrets list --filter="name~/sobel-" --format='value(name)'
[ "$remains" -eq 0 ] || die "the resources above still cost money. Run this again. What then remains belongs to no stack
any more (a lost state, another STATE_BUCKET or clone): delete it in the console, or with gcloud"

rm -f "$KUBECONFIG"
$DRY_RUN || rm -f "$stacks"/*/.terraform/terraform.tfstate # where the states were: the next deployment chooses anew
say "
Expect: no further costs. Kept, because they cost nothing or are yours:
  the project and its enabled services; terraform/state and terraform/cdktf.out on this machine"
[ -z "$STATE_BUCKET" ] || say "  the bucket $STATE_BUCKET, a few kB; to delete it: gcloud storage rm --recursive gs://$STATE_BUCKET"
say "
Next: nothing. To start again: bash pipelines/1-gke.sh"

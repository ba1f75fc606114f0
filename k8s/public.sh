#!/usr/bin/env bash
# Opens the page to the world under a name of yours, by HTTPS: on GKE with a certificate of Google, elsewhere with one of
# cert-manager (https://cert-manager.io). It refuses while the coordinators require no token.
#
#   bash k8s/public.sh sobel.example.org
#   ISSUER=letsencrypt bash k8s/public.sh sobel.example.org     another ClusterIssuer of cert-manager (default letsencrypt)
#   kubectl -n sobel delete ingress --all                       closes it again
#
# Needs kubectl with access to a cluster where k8s/ or k8s-ha/ runs. It restarts the coordinators, which loses no job: they then
# have the token, and let browsers use this name. Safe to run again. At Google it costs about 0.03 USD an hour.
set -euo pipefail
# No `cd`: KUBECONFIG may be a relative path.
folder="$(dirname "${BASH_SOURCE[0]}")/public"

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

host="${1:-}"
issuer="${ISSUER:-letsencrypt}"
[ $# -eq 1 ] || die "expected a name: bash k8s/public.sh sobel.example.org"
label='[a-z0-9]([a-z0-9-]*[a-z0-9])?'
[[ "$host" =~ ^($label\.)+$label$ ]] || die "expected a name like sobel.example.org, in small letters, without https://, got $host"
[[ "$issuer" =~ ^($label\.)*$label$ ]] || die "ISSUER: expected the name of a ClusterIssuer, got $issuer"
command -v kubectl >/dev/null || die "kubectl is missing; install it: https://kubernetes.io/docs/tasks/tools/"

token="$(kubectl -n sobel get secret coordinator -o 'jsonpath={.data.auth-token}')" \
  || die "kubectl cannot read the Secret coordinator. If the cluster has none, run bash k8s/secrets.sh, then kubectl apply -f k8s/.
If it is the wrong cluster, set KUBECONFIG: out/kubeconfig has that of Google Cloud"
[ -n "$token" ] || die "the coordinators require no token: everyone could send pictures and cancel jobs. Choose one:
  kubectl -n sobel delete secret coordinator
  AUTH_TOKEN=\"\$(openssl rand -hex 24)\" bash k8s/secrets.sh"

kinds="$(kubectl api-resources -o name)" || die "kubectl cannot list the kinds of the cluster; see the error above"
if grep -qx managedcertificates.networking.gke.io <<<"$kinds"; then
  file=gke.yaml
elif grep -qx clusterissuers.cert-manager.io <<<"$kinds"; then
  file=cert-manager.yaml
  kubectl get clusterissuer "$issuer" -o name >/dev/null \
    || die "there is no ClusterIssuer $issuer; set ISSUER, or create it: https://cert-manager.io/docs/configuration/acme/"
else
  die "the cluster is not of GKE, and has no cert-manager; install that: https://cert-manager.io/docs/installation/"
fi

echo "==> the coordinators, with their token, for browsers at $host"
kubectl -n sobel set env deployment/coordinator "ALLOWED_HOSTS=$host"
kubectl -n sobel rollout restart deployment/coordinator
kubectl -n sobel rollout status deployment/coordinator --timeout=10m
echo "==> the address"
sed "s/sobel\.example/$host/; s/\(cluster-issuer: \).*/\1$issuer/" "$folder/$file" | kubectl apply -f -
echo "
Next: point the name $host to the address that this shows, after some minutes: kubectl -n sobel get ingress
The certificate comes when the name has that address; it may take an hour. Then: AUTH_TOKEN=… bash pipelines/6-smoke.sh https://$host"

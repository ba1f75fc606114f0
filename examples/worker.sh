#!/usr/bin/env bash
# A worker in Bash that offers a task of its own, with netpbm: POST /tasks/brighten?by=60 then works. See docs/wire.md.
#   apt-get install amqp-tools redis-tools netpbm jq
#   RABBITMQ_URL=amqp://guest:guest@127.0.0.1 REDIS_URL=redis://127.0.0.1 bash examples/worker.sh
set -euo pipefail
redis() { redis-cli -e -u "$REDIS_URL" "$@"; }

# amqp-consume runs this script for each message, and acknowledges the message if the script succeeds. Until then no
# other message comes. So a failure ends the consumer, and RabbitMQ redelivers the band.
if [ "${1:-}" = band ]; then
  trap 'kill "$PPID"' ERR
  message="$(cat)"
  chunk_id="$(jq -r .chunk_id <<<"$message")"
  by="$(jq -r .params.by <<<"$message")"
  jq -r .imagen <<<"$message" | base64 -d | pngtopnm | pamfunc -adder="$by" | base64 -w 0 \
    | redis -x SETEX "resultado:$chunk_id" 3600 >/dev/null
  exit
fi

# The heartbeat contains the offer, and ends with the worker. The halo is 0: a pixel depends on no other row.
offer='[{"name":"brighten","halo":0,"params":{"by":{"type":"integer","minimum":0,"maximum":255,"default":40}}}]'
while kill -0 "$$" 2>/dev/null; do
  redis ZADD workers "$(redis TIME | head -n 1)000" "bash-$$" || true
  redis HSET "worker:bash-$$" name "bash-$$" tasks '["brighten"]' offers "$offer" busy '' || true
  redis PEXPIRE "worker:bash-$$" 12000 || true
  sleep 4
done >/dev/null &
trap 'kill $!' EXIT
echo "at work"
# The queue exists once the coordinator has enqueued a band. The consumer ends with this script, even by SIGKILL.
until setpriv --pdeathsig KILL amqp-consume -u "$RABBITMQ_URL" -q tareas.brighten -p 1 -- bash "$0" band; do
  sleep 1
done 2>/dev/null

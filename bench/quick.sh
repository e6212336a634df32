#!/usr/bin/env bash
# What a pair of sidecars costs: processor time per request, on this machine, in this run.
#
#   wrk -> client's sidecar -> mutual TLS -> server's sidecar -> nginx
#
# The generator and nginx share one core, both sidecars the other, with one worker each. Processor time (user and system, from
# /proc) is what can be compared between runs; rates and latencies depend on what else the machine does.
# Settings: PROFILE=release|quick  ROUNDS=3  SECONDS_EACH=8  CONNECTIONS=32
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${PROFILE:-release} rounds=${ROUNDS:-3} duration=${SECONDS_EACH:-8} connections=${CONNECTIONS:-32}
target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --profile "$profile" -p weir-proxy -p weir-control-plane --bins
bin=$(realpath "$target/$profile")

work=$(mktemp -d)
started=()
finish() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

# Cores: the first for load and origin, the last for the sidecars. On one core everything shares it, and the result says so.
cores=$(nproc)
load_core=0 mesh_core=$((cores - 1))

# Addresses of this run's own, so that it meets no other program and no other run.
net=127.$((32 + $$ % 200)).0
control_plane=$net.10 origin=$net.3:18080

fail() { echo "bench: $1" >&2; tail -n 20 "$work"/*.log >&2 || true; exit 1; }

# Waits until a URL answers with 200, as long as the process behind it lives.
await() { # URL PID NAME
  for _ in $(seq 300); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' ${4:+-H "$4"} "$1")" = 200 ] && return
    kill -0 "$2" 2>/dev/null || fail "$3 ended"
    sleep 0.1
  done
  fail "$3 does not answer at $1"
}

mkdir -p "$work/manifests" "$work/html" "$work/tmp"
head -c 1024 /dev/zero | tr '\0' x > "$work/html/index.html"
chmod -R a+rX "$work"

cat > "$work/nginx.conf" <<CONF
worker_processes 1; daemon off; pid $work/nginx.pid; error_log $work/nginx.log warn;
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 100000000; client_body_temp_path $work/tmp; proxy_temp_path $work/tmp;
  fastcgi_temp_path $work/tmp; uwsgi_temp_path $work/tmp; scgi_temp_path $work/tmp;
  server { listen $origin reuseport; root $work/html; }
}
CONF

pod() { # NAME ADDRESS
  cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: { name: $1, namespace: bench, labels: { app: $1 }, annotations: { weir.dev/status: "{}" } }
spec: { serviceAccountName: $1, containers: [{ name: app, image: none }] }
status: { podIP: $2 }
YAML
}
{
  cat <<YAML
apiVersion: v1
kind: Namespace
metadata: { name: bench }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: bench }
spec: { selector: { app: web }, ports: [{ name: http, port: 80, targetPort: 8080, appProtocol: http }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: bench, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ name: http, port: 8080, protocol: TCP, appProtocol: http }]
endpoints: [{ addresses: ["$net.2"], conditions: { ready: true }, targetRef: { kind: Pod, namespace: bench, name: web } }]
YAML
  pod client $net.1
  pod web $net.2
} > "$work/manifests/bench.yaml"
printf 'client-token bench client\nweb-token bench web\n' > "$work/tokens"
echo -n client-token > "$work/client.token"
echo -n web-token > "$work/web.token"

taskset -c "$load_core" nginx -p "$work" -c "$work/nginx.conf" 2> "$work/nginx-start.log" &
started+=($!)
taskset -c "$load_core" "$bin/weir-control-plane" --source "dir:$work/manifests" --ca-dir "$work/ca" --token-file "$work/tokens" \
  --grpc-listen $control_plane:15410 --http-listen $control_plane:15411 2> "$work/control-plane.log" &
started+=($!)
await http://$control_plane:15411/ready $! "the control plane"

sidecar() { # NAME ADDRESS APP
  WEIR_POD_NAME=$1 WEIR_POD_NAMESPACE=bench WEIR_SERVICE_ACCOUNT=$1 WEIR_POD_IP=$2 WEIR_CONTROL_PLANE=$control_plane:15410 \
    WEIR_TRUST_BUNDLE=$work/ca/ca.crt WEIR_TOKEN=$work/$1.token WEIR_OUTBOUND_LISTEN=$2:15401 WEIR_ADMIN_LISTEN=$2:15420 \
    WEIR_INBOUND=$2:8080=$3 WEIR_WORKERS=1 WEIR_LOG_LEVEL=warn taskset -c "$mesh_core" "$bin/weir-proxy" 2> "$work/$1.log" &
  started+=($!)
}
# Nothing calls the client, so nothing stands behind it.
sidecar client "$net.1" "$net.1:18099"; client=$!
sidecar web "$net.2" "$origin"; web=$!
await "http://$net.1:15420/ready" "$client" "the client's sidecar"
await "http://$net.2:15420/ready" "$web" "the server's sidecar"
mesh=http://$net.1:15401/
await "$mesh" "$client" "the way through the mesh" "Host: web.bench"

# User and system time of a process in clock ticks. The name in the second field may hold spaces: cut behind its bracket.
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }
resident() { awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$1/status"; }
per_second=$(getconf CLK_TCK)

load() { # URL SECONDS
  taskset -c "$load_core" wrk -t 1 -c "$connections" -d "$2s" --latency -H "Host: web.bench" "$1" > "$work/wrk.out"
  grep -qE 'Non-2xx|Socket errors' "$work/wrk.out" && fail "some requests failed: $(grep -E 'Non-2xx|Socket errors' "$work/wrk.out")"
  awk '/requests in/ { n = $1 } /^Requests\/sec/ { r = $2 } $1 == "50%" { a = $2 } $1 == "99%" { b = $2 } END { print n, r, a, b }' "$work/wrk.out"
}

echo "profile $profile, $rounds rounds of ${duration}s, $connections connections, 1 KiB answers, mutual TLS, load on core $load_core, sidecars on core $mesh_core"
[ "$cores" -gt 1 ] || echo "only one core: load and sidecars share it"
[ "$profile" = release ] || echo "this profile keeps debug assertions: compare it with itself only"
printf '%-8s %12s %14s %9s %9s\n' round requests/s 'CPU us/request' p50 p99
load "$mesh" 2 > /dev/null
results=()
for round in $(seq "$rounds"); do
  read -r _ rate p50 p99 < <(load "http://$origin/" "$duration")
  printf '%-8s %12s %14s %9s %9s\n' "$round direct" "$rate" 0 "$p50" "$p99"
  before=$(($(ticks "$client") + $(ticks "$web")))
  read -r requests rate p50 p99 < <(load "$mesh" "$duration")
  after=$(($(ticks "$client") + $(ticks "$web")))
  cost=$(awk -v t=$((after - before)) -v hz="$per_second" -v n="$requests" 'BEGIN { printf "%.1f", t / hz * 1e6 / n }')
  printf '%-8s %12s %14s %9s %9s\n' "$round mesh" "$rate" "$cost" "$p50" "$p99"
  results+=("$cost")
done
median=$(printf '%s\n' "${results[@]}" | sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }')
echo "both sidecars together: $median us of processor time per request (median); resident: client $(resident "$client") MiB, server $(resident "$web") MiB"

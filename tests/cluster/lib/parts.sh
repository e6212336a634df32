# The programs of the cluster: how each is started and when it serves.
# shellcheck shell=bash disable=SC2154

readonly parts=(etcd apiserver controller-manager scheduler containerd kubelet proxy dns)

known() {
  [[ " ${parts[*]} " == *" $1 "* ]] || fail "there is no part '$1'; the parts are: ${parts[*]}"
}

# The command of a part, into the array `command`.
command_of() {
  local pki=$state/pki conf=$state/conf
  case $1 in
    etcd)
      # Durability is not wanted: the data ends with the cluster.
      command=(etcd --data-dir=/var/lib/etcd --unsafe-no-fsync --name=node
        --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
        --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380
        --initial-cluster=node=http://127.0.0.1:2380)
      ;;
    apiserver)
      command=(kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 "--advertise-address=$node_ipv4"
        "--tls-cert-file=$pki/apiserver.crt" "--tls-private-key-file=$pki/apiserver.key" "--client-ca-file=$pki/ca.crt"
        "--kubelet-client-certificate=$pki/apiserver-to-kubelet.crt" "--kubelet-client-key=$pki/apiserver-to-kubelet.key"
        "--kubelet-certificate-authority=$pki/ca.crt" --kubelet-preferred-address-types=InternalIP
        --service-account-issuer=https://kubernetes.default.svc.cluster.local
        "--service-account-signing-key-file=$pki/service-account.key" "--service-account-key-file=$pki/service-account.pub"
        "--service-cluster-ip-range=$services" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
        "--requestheader-client-ca-file=$pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
        --requestheader-extra-headers-prefix=X-Remote-Extra-
        "--proxy-client-cert-file=$pki/front-proxy.crt" "--proxy-client-key-file=$pki/front-proxy.key"
        --anonymous-auth=false --allow-privileged=true --profiling=false)
      ;;
    controller-manager)
      # A node that could not report while the API server was away has done nothing wrong.
      command=(kube-controller-manager --leader-elect=false --node-monitor-grace-period=30m
        "--kubeconfig=$pki/controller-manager.kubeconfig" "--authentication-kubeconfig=$pki/controller-manager.kubeconfig"
        "--authorization-kubeconfig=$pki/controller-manager.kubeconfig" --use-service-account-credentials=true
        "--service-account-private-key-file=$pki/service-account.key" "--root-ca-file=$pki/ca.crt"
        "--cluster-signing-cert-file=$pki/ca.crt" "--cluster-signing-key-file=$pki/ca.key" --profiling=false)
      ;;
    scheduler)
      command=(kube-scheduler --leader-elect=false "--kubeconfig=$pki/scheduler.kubeconfig"
        "--authentication-kubeconfig=$pki/scheduler.kubeconfig" "--authorization-kubeconfig=$pki/scheduler.kubeconfig")
      ;;
    containerd) command=(containerd --config "$conf/containerd.toml") ;;
    kubelet)
      command=(kubelet "--config=$conf/kubelet.yaml" "--kubeconfig=$pki/kubelet.kubeconfig" "--hostname-override=$name"
        "--node-ip=$node_ipv4,$node_ipv6")
      ;;
    proxy) command=(kube-proxy "--config=$conf/proxy.yaml") ;;
    dns) command=(coredns -conf "$conf/Corefile") ;;
  esac
}

# serves PART: whether it does its work.
serves() {
  case $1 in
    apiserver) in_network kubectl get --raw /readyz ;;
    controller-manager) answers 10257 https ;;
    scheduler) answers 10259 https ;;
    proxy) answers 10256 /healthz ;;
    dns) answers 8181 /ready ;;
    containerd) enter ctr version ;;
    kubelet) answers 10248 /healthz && node_ready ;;
    etcd) answers 2379 /health ;;
  esac
}

node_ready() {
  local condition
  condition=$(in_network kubectl get node "$name" -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}')
  echo "the node is Ready: $condition"
  [ "${condition%% *}" = True ]
}

# answers PORT PATH: 200 to a GET on loopback; with "https" for the path, that somebody listens.
answers() {
  in_network bash -c '
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit
    [ "$2" != https ] || exit 0
    printf "GET %s HTTP/1.0\r\n\r\n" "$2" >&3
    read -r -t 2 _ code _ <&3 && [ "$code" = 200 ]' answers "$1" "$2"
}

# Starts a part; settled waits for it.
launch() {
  local command
  command_of "$1"
  say "starting $1"
  # Its shell ends at once, and the node's first process adopts it.
  enter bash -c '
    # The roots of containers are readable by those who run in them.
    umask 022
    ulimit -n 1048576 2>/dev/null
    log=$1 pid=$2
    shift 2
    setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
    echo $! >"$pid"' launch "$state/log/$1.log" "$state/run/$1.pid" "${command[@]}" 9>&-
}

settled() {
  wait_for "$1" 60 "$1" serves "$1"
  say "$1 serves"
}

alive() {
  local pid
  pid=$(cat "$state/run/$1.pid" 2>/dev/null) || return 1
  local command
  command_of "$1"
  # The number could be somebody else's by now.
  enter bash -c '[ "$(tr "\0" "\n" <"/proc/$1/cmdline" | head -n 1)" = "$2" ]' alive "$pid" "${command[0]}" 2>/dev/null
}

# Ends a part, and waits until it has. The API server would wait a minute for those who watch.
halt() {
  alive "$1" || {
    say "$1 does not run"
    return 0
  }
  say "stopping $1"
  enter bash -c '
    kill -TERM "$1"
    for ((turn = 0; turn < 30; turn++)); do
      kill -0 "$1" 2>/dev/null || exit 0
      sleep 0.1
    done
    kill -KILL "$1"' halt "$(cat "$state/run/$1.pid")"
  rm -f "$state/run/$1.pid"
}

# wait_for WHAT SECONDS PART COMMAND...: until the command succeeds. The part, when there is one,
# has to live on; its log tells why it does not.
wait_for() {
  local what=$1 part=$3 deadline=$((SECONDS + $2)) cause
  shift 3
  until "$@" >/dev/null 2>&1; do
    cause=
    if [ -n "$part" ] && ! alive "$part"; then
      cause="$part has ended"
    elif [ "$SECONDS" -ge "$deadline" ]; then
      cause="$what: not there in time; the last try said: $("$@" 2>&1 | tail -n 2 || true)"
    fi
    if [ -n "$cause" ]; then
      [ -z "$part" ] || { echo "the end of $state/log/$part.log:" && tail -n 20 "$state/log/$part.log" | cut -c1-400; } >&2
      fail "$cause"
    fi
    sleep 0.1
  done
}

# The image that holds a pod's namespaces.
load_pause() {
  local work=$state/pause
  mkdir -m 755 -p "$work/root"
  install -m 755 "$state/bin/pause" "$work/root/pause"
  "$here/archive" "$pause_image" "$work/root" "$work/image.tar" /pause 65535:65535
  load "$work/image.tar" >/dev/null
  rm -r "$work"
}

# retry SECONDS COMMAND...: for what a young API server refuses for a moment.
retry() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || fail "still refused: $*"
    sleep 0.3
  done
}

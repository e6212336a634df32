# The node: namespaces of its own for network, mounts and processes, held by their first
# process. When that ends the kernel ends and unmounts all the rest, so nothing can be left over.
# shellcheck shell=bash disable=SC2154  # name and state come from cluster

readonly node_ipv4=10.240.0.10 node_ipv6=fd00:10:240::10
readonly cgroup=weir-cluster-$name

say() {
  local now=$EPOCHREALTIME from=${started:-$EPOCHREALTIME} tenths
  tenths=$(((${now/./} - ${from/./}) / 100000))
  printf '%3d.%d s  %s\n' $((tenths / 10)) $((tenths % 10)) "$*" >&2
}

fail() {
  echo "cluster: $*" >&2
  exit 1
}

# Nothing may hide the state directory, and names become parts of paths.
require_safe_names() {
  [ "$(id -u)" -eq 0 ] || fail "it makes namespaces, mounts and cgroups; run it as root"
  [[ $name =~ ^[a-z0-9][a-z0-9-]{0,30}$ ]] || fail "WEIR_CLUSTER_NAME=$name: up to 31 of a-z, 0-9 and -, please"
  case $state in
    /run/* | /var/run/* | /var/lib/* | /var/log/*)
      fail "the state directory $state would be hidden by the node's own /run, /var/lib or /var/log; choose another"
      ;;
    /*/*) ;;
    *) fail "the state directory $state is not an absolute path of at least two parts" ;;
  esac
  # What is in it is removed without asking.
  [ ! -d "$state" ] || [ -e "$state/.weir-cluster" ] || [ -z "$(ls -A "$state")" ] ||
    fail "$state holds something that is not a cluster's; give a directory of its own with WEIR_CLUSTER_STATE"
}

# The first process of the node, in the numbers of this machine; nothing when there is no node.
node_pid() {
  local pid numbers
  [ -e "/run/netns/$name" ] || return 0
  for pid in $(ip netns pids "$name" 2>/dev/null); do
    # Its number is 1 in the one process namespace below ours.
    numbers=$(sed -n 's/^NSpid:\t//p' "/proc/$pid/status" 2>/dev/null) || continue
    if [[ $numbers =~ ^[0-9]+$'\t'1$ ]]; then
      echo "$pid"
      return 0
    fi
  done
}

running() {
  [ -n "$(node_pid)" ] || fail "there is no cluster $name; start it with: $0 up"
}

enter() {
  local pid settings
  pid=$(node_pid)
  mapfile -t settings < <(environment)
  env "${settings[@]}" nsenter --target "$pid" --mount --net --pid -- "$@"
}

# Only the network: the files, the processes and the signals of the caller stay what they are.
in_network() {
  [ -e "/run/netns/$name" ] || fail "there is no cluster $name; start it with: $0 up"
  [ "$#" -gt 0 ] || fail "exec needs a command"
  local settings
  mapfile -t settings < <(environment)
  env "${settings[@]}" nsenter --net="/run/netns/$name" -- "$@"
}

environment() {
  echo "KUBECONFIG=$state/kubeconfig"
  echo "KUBECACHEDIR=$state/kubecache"
  echo "PATH=$state/bin:$PATH"
  echo "WEIR_CLUSTER_NAME=$name"
  echo "WEIR_CLUSTER_STATE=$state"
}

node_up() {
  ip netns add "$name"
  make_cgroups
  local holder
  nsenter --net="/run/netns/$name" -- unshare --mount --pid --fork --mount-proc --propagation private \
    "$state/bin/pause" </dev/null >/dev/null 2>&1 9>&- &
  holder=$!
  disown
  wait_for "the node's first process" 10 "" node_exists "$holder"
  enter bash -euc "$(declare -f node_mounts node_network fixed_sysctl); services=$services; node_mounts \"\$@\"; node_network \"\$@\"" \
    node "$state" "$node_ipv4" "$node_ipv6"
}

node_exists() {
  kill -0 "$1" 2>/dev/null || fail "the namespaces of the node cannot be made; are CAP_SYS_ADMIN and PID namespaces there?"
  [ -n "$(node_pid)" ]
}

# Inside. Kubernetes uses the ordinary paths, which are the node's own.
node_mounts() {
  local state=$1
  # kubelet mounts volumes that containers have to see.
  mount --make-rshared /
  mount -t tmpfs -o mode=755 node-run /run
  mkdir -p /run/netns
  mount --bind "$state/var-lib" /var/lib
  mount --bind "$state/log" /var/log
  # kubelet insists on settings of the whole machine. It finds them, and they stay what they are.
  fixed_sysctl vm/overcommit_memory 1
  fixed_sysctl vm/panic_on_oom 0
  fixed_sysctl kernel/panic 10
  fixed_sysctl kernel/panic_on_oops 1
  fixed_sysctl kernel/keys/root_maxkeys 1000000
  fixed_sysctl kernel/keys/root_maxbytes 25000000
}

fixed_sysctl() {
  mkdir -p "/run/sysctl/${1%/*}"
  echo "$2" >"/run/sysctl/$1"
  mount --bind "/run/sysctl/$1" "/proc/sys/$1"
}

# Inside. No route leads out: what is not of the cluster is unreachable at once.
node_network() {
  local ipv4=$2 ipv6=$3 family
  for family in all default; do
    # Nobody else is there to have the same address; the check would take a second for each pod.
    echo 0 >"/proc/sys/net/ipv6/conf/$family/accept_dad"
    echo 1 >"/proc/sys/net/ipv6/conf/$family/forwarding"
    echo 0 >"/proc/sys/net/ipv4/conf/$family/rp_filter"
  done
  echo 1 >/proc/sys/net/ipv4/ip_forward
  ip link set lo up
  ip address add "$ipv4/32" dev lo
  ip -6 address add "$ipv6/128" dev lo
  # The API server calls webhooks by the addresses of Services. kube-proxy changes them after a route was found, so there has
  # to be one.
  ip route add "${services%,*}" dev lo src "$ipv4"
  ip -6 route add "${services#*,}" dev lo src "$ipv6"
}

# A cgroup for the pods in every hierarchy, of version 1 or 2.
make_cgroups() {
  local hierarchy file
  for hierarchy in $(cgroup_hierarchies); do
    mkdir -p "$hierarchy/$cgroup"
    for file in cpuset.cpus cpuset.mems; do
      # Version 1: a new one is empty, and nothing can run in it.
      [ ! -e "$hierarchy/tasks" ] || [ ! -e "$hierarchy/$file" ] || cat "$hierarchy/$file" >"$hierarchy/$cgroup/$file"
    done
  done
}

cgroup_hierarchies() {
  findmnt --noheadings --list --types cgroup,cgroup2 --output TARGET
}

# Ends and removes what there is under this name; also after an up that failed, or a crash.
node_down() {
  local pid
  pid=$(node_pid)
  if [ -n "$pid" ]; then
    kill -KILL "$pid"
    wait_for "the node's processes to end" 30 "" ended "$pid"
  fi
  [ ! -e "/run/netns/$name" ] || ip netns delete "$name"
  wait_for "the pods' cgroups to be empty" 30 "" cgroups_removed
  # The logs stay until the next start, which makes new ones.
  [ ! -d "$state" ] || find "$state" -mindepth 1 -maxdepth 1 ! -name log ! -name .weir-cluster -exec rm -rf {} +
}

ended() { [ ! -d "/proc/$1" ]; }

cgroups_removed() {
  local hierarchy left=0
  for hierarchy in $(cgroup_hierarchies); do
    [ ! -d "$hierarchy/$cgroup" ] || find "$hierarchy/$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || left=1
  done
  return "$left"
}

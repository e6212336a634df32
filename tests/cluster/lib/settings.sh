# The configuration files of the parts.
# shellcheck shell=bash disable=SC2154

readonly pods_ipv4=10.244.0.0/16 pods_ipv6=fd00:10:244::/64
readonly services=10.96.0.0/16,fd00:10:96::/112
readonly first_service_ipv4=10.96.0.1 dns_ipv4=10.96.0.10
readonly pause_image=registry.k8s.io/pause:3.10

write_settings() {
  containerd_settings >"$state/conf/containerd.toml"
  mkdir "$state/conf/cni" "$state/cni-bin"
  network_settings >"$state/conf/cni/10-pods.conflist"
  no_dad_plugin >"$state/cni-bin/no-dad"
  chmod +x "$state/cni-bin/no-dad"
  local plugin
  for plugin in host-local loopback portmap ptp; do
    ln -s "../bin/$plugin" "$state/cni-bin/$plugin"
  done
  : >"$state/conf/resolv.conf"
  kubelet_settings >"$state/conf/kubelet.yaml"
  proxy_settings >"$state/conf/proxy.yaml"
  dns_settings >"$state/conf/Corefile"
}

containerd_settings() {
  cat <<END
version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$pause_image"
  # What later versions of containerd do.
  enable_unprivileged_ports = true
  # In a virtual machine or a container root may lack CAP_SYS_RESOURCE; pods are to start all the same.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "$state/cni-bin"
  conf_dir = "$state/conf/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
END
}

# Each pod is at the end of a cable of its own and the node routes between them. A bridge would
# need the kernel to translate bridged packets for calls to a Service from the same node.
network_settings() {
  cat <<END
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {"type": "no-dad"},
    {
      "type": "ptp",
      "mtu": 1500,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "$pods_ipv4"}], [{"subnet": "$pods_ipv6"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true, "backend": "nftables"}
  ]
}
END
}

# Addresses come from one place, so that the search for duplicates would only cost a second for each pod.
no_dad_plugin() {
  cat <<'END'
#!/bin/sh
case $CNI_COMMAND in
  ADD)
    nsenter --net="$CNI_NETNS" sh -c 'for at in all default; do echo 0 >/proc/sys/net/ipv6/conf/$at/accept_dad; done' &&
      echo '{"cniVersion": "1.0.0"}'
    ;;
  VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
esac
END
}

kubelet_settings() {
  cat <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $state/pki/kubelet-server.crt
tlsPrivateKeyFile: $state/pki/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
failSwapOn: false
clusterDNS: [$dns_ipv4]
clusterDomain: cluster.local
resolvConf: $state/conf/resolv.conf
maxPods: 200
serializeImagePulls: false
# The disk is the machine's: nothing is removed or refused because somebody else fills it.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
END
}

proxy_settings() {
  cat <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $state/pki/proxy.kubeconfig}
hostnameOverride: $name
mode: nftables
clusterCIDR: $pods_ipv4,$pods_ipv6
nftables: {minSyncPeriod: 200ms}
# Limits of connection tracking belong to the machine.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
}

dns_settings() {
  cat <<END
cluster.local in-addr.arpa ip6.arpa {
  bind $node_ipv4 $node_ipv6
  errors
  ready 127.0.0.1:8181
  kubernetes {
    kubeconfig $state/pki/dns.kubeconfig
    ttl 1
  }
  loadbalance
}
. {
  bind $node_ipv4 $node_ipv6
  template ANY ANY {
    rcode NXDOMAIN
  }
}
END
}

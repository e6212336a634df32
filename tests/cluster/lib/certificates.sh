# The certificates of the cluster, all of one authority that lives as long as the cluster.
# shellcheck shell=bash disable=SC2154

make_certificates() {
  local pki=$state/pki
  printf '%s\n' '[req]' 'distinguished_name = subject' 'prompt = no' '[subject]' 'CN = unused' >"$pki/openssl.conf"
  authority ca
  # Extension API servers know the API server by an authority that signs nobody else.
  authority front-proxy-ca
  certificate front-proxy /CN=front-proxy-client clientAuth "" front-proxy-ca
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$pki/service-account.key" 2>/dev/null
  openssl pkey -in "$pki/service-account.key" -pubout -out "$pki/service-account.pub"

  certificate apiserver /CN=kube-apiserver serverAuth \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:::1,IP:$node_ipv4,IP:$node_ipv6,IP:$first_service_ipv4"
  certificate kubelet-server /CN=kubelet serverAuth "DNS:$name,IP:127.0.0.1,IP:$node_ipv4,IP:$node_ipv6"
  certificate apiserver-to-kubelet /CN=kube-apiserver-kubelet-client clientAuth
  client admin /O=system:masters/CN=admin
  client controller-manager /CN=system:kube-controller-manager
  client scheduler /CN=system:kube-scheduler
  client kubelet "/O=system:nodes/CN=system:node:$name"
  client proxy /CN=system:kube-proxy
  client dns /CN=coredns
  cp "$pki/admin.kubeconfig" "$state/kubeconfig"
}

authority() {
  local pki=$state/pki
  openssl req -x509 -config "$pki/openssl.conf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
    -keyout "$pki/$1.key" -out "$pki/$1.crt" -subj "/CN=weir-test-cluster-$1" \
    -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature 2>/dev/null
}

# certificate FILE SUBJECT USAGE [NAMES [AUTHORITY]]
certificate() {
  local pki=$state/pki issuer=${5:-ca}
  openssl req -x509 -config "$pki/openssl.conf" -CA "$pki/$issuer.crt" -CAkey "$pki/$issuer.key" \
    -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 -keyout "$pki/$1.key" -out "$pki/$1.crt" -subj "$2" \
    -addext basicConstraints=critical,CA:false -addext keyUsage=critical,digitalSignature \
    -addext "extendedKeyUsage=$3" ${4:+-addext "subjectAltName=$4"} 2>"$pki/openssl.log" ||
    fail "openssl cannot make the certificate $1: $(tail -n 1 "$pki/openssl.log") (version 3 or later is needed)"
}

# client FILE SUBJECT: a certificate and a kubeconfig that uses it, with everything in one file.
client() {
  local pki=$state/pki
  certificate "$1" "$2" clientAuth
  cat >"$pki/$1.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters:
- name: weir
  cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}
contexts:
- name: weir
  context: {cluster: weir, user: $1}
current-context: weir
END
}

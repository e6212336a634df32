{{- /* Labels of every object. The argument has Chart and name. */ -}}
{{- define "weir.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: weir
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- /* What a Deployment's pods are found by. It can never change. The argument has name. */ -}}
{{- define "weir.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: weir
{{- end -}}

{{- define "weir.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- /* What both Deployments' pods have in common, besides their containers. The argument has name, Values and part (the part of
       the values that is about this Deployment). */ -}}
{{- define "weir.pod" -}}
serviceAccountName: {{ .name }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- else }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "weir.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "weir.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "weir.container-security" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* What all mutating webhooks have in common. */ -}}
{{- define "weir.mutating" -}}
admissionReviewVersions: [v1]
sideEffects: None
reinvocationPolicy: IfNeeded
matchPolicy: Equivalent
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    resources: [pods]
    operations: [CREATE]
    scope: Namespaced
{{- end -}}

{{- /* The cluster's own namespaces and the mesh's come up without the injector. */ -}}
{{- define "weir.other-namespaces" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: [kube-system, kube-public, kube-node-lease, {{ .Release.Namespace }}]
{{- end -}}

{{- define "weir.validating" -}}
admissionReviewVersions: [v1]
sideEffects: None
timeoutSeconds: 5
matchPolicy: Equivalent
{{- end -}}

{{- define "weir.service" -}}
name: weir-injector
namespace: {{ .Release.Namespace }}
port: 443
{{- end -}}

{{- /* A duration as the Gateway API writes it (GEP-2257). */ -}}
{{- define "weir.duration" -}}
"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
{{- end }}

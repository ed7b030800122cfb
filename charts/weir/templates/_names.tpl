{{/* Names of what belongs to a namespace. */}}
{{- define "weir.name" -}}
{{ .Release.Name }}
{{- end }}

{{/* Names of what belongs to no namespace: several Weirs in one cluster have several. */}}
{{- define "weir.clusterName" -}}
{{ .Release.Name }}.{{ .Release.Namespace }}
{{- end }}

{{- define "weir.certificate" -}}
{{ include "weir.name" . }}-certificate
{{- end }}

{{/* In which proxies are told whom to trust. */}}
{{- define "weir.authorities" -}}
{{ include "weir.name" . }}-ca
{{- end }}

{{/* In which it is kept what is decided. */}}
{{- define "weir.checkpoint" -}}
{{ include "weir.name" . }}-checkpoint
{{- end }}

{{/* Whether Weir makes and renews its certificate: `true` or nothing. */}}
{{- define "weir.makesCertificate" -}}
{{- if not .Values.certificate.secretName }}true{{ end }}
{{- end }}

{{/* Namespaces with proxies, and that of Weir, where readers of its metrics find it, as JSON. */}}
{{- define "weir.proxyNamespaces" -}}
{{ append (.Values.proxyNamespaces | default .Values.namespaces | default (list "default")) .Release.Namespace | uniq | toJson }}
{{- end }}

{{/* Whether pods that ask for a sidecar get one: `true` or nothing. */}}
{{- define "weir.injects" -}}
{{- if and .Values.webhook.enabled .Values.injection.enabled }}true{{ end }}
{{- end }}

{{/* The preStop hook `sleep` came with Kubernetes 1.30; an older API server refuses the pod. */}}
{{- define "weir.applicationDrain" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}{{ .Values.injection.applicationDrain }}{{ else }}0s{{ end }}
{{- end }}

{{/* Where no pod gets a sidecar, as JSON. */}}
{{- define "weir.notInjected" -}}
{{ concat (list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace) .Values.injection.excludedNamespaces | uniq | toJson }}
{{- end }}

{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "weir.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

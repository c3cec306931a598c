{{- define "weir.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "weir.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "weir.name" .) .Values.serviceAccount.name }}{{ else }}{{ required "serviceAccount.name is required if serviceAccount.create is false" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "weir.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Whether each Gateway gets a Service. */}}
{{- define "weir.gatewayService" -}}
{{- if and .Values.apis.gateway .Values.gatewayService.create }}true{{ end }}
{{- end }}

{{/* Permissions for namespaced objects: to read them, and to write the status of those whose status Weir writes. */}}
{{- define "weir.namespacedRules" -}}
- apiGroups: [""]
  resources: [services, secrets, configmaps]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- if include "weir.gatewayService" . }}
# The Service of each Gateway, and its endpoints.
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, create, patch, delete]
{{- end }}
{{- if .Values.apis.gateway }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways, listenersets, httproutes, grpcroutes, tlsroutes, tcproutes, udproutes, backendtlspolicies]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways/status, listenersets/status, httproutes/status, grpcroutes/status, tlsroutes/status, tcproutes/status, udproutes/status, backendtlspolicies/status]
  verbs: [patch]
{{- end }}
{{- if .Values.apis.ingress }}
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [patch]
{{- end }}
# Events for what is found about objects whose status has no conditions.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if .Values.apis.istio }}
- apiGroups: [networking.istio.io]
  resources: [gateways, virtualservices, destinationrules, serviceentries, workloadentries]
  verbs: [get, list, watch]
- apiGroups: [networking.istio.io]
  resources: [gateways/status, virtualservices/status, destinationrules/status, serviceentries/status, workloadentries/status]
  verbs: [patch]
- apiGroups: [security.istio.io]
  resources: [authorizationpolicies]
  verbs: [get, list, watch]
- apiGroups: [security.istio.io]
  resources: [authorizationpolicies/status]
  verbs: [patch]
# For the subsets of DestinationRules.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end }}
{{- if .Values.apis.wasmPlugin }}
- apiGroups: [extensions.istio.io, extensions.higress.io]
  resources: [wasmplugins]
  verbs: [get, list, watch]
- apiGroups: [extensions.istio.io, extensions.higress.io]
  resources: [wasmplugins/status]
  verbs: [patch]
{{- end }}
{{- if .Values.apis.mcpBridge }}
- apiGroups: [networking.higress.io]
  resources: [mcpbridges]
  verbs: [get, list, watch]
- apiGroups: [networking.higress.io]
  resources: [mcpbridges/status]
  verbs: [patch]
{{- end }}
{{- end }}

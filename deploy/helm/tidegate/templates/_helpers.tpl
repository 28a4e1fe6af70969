{{- define "tidegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tidegate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains (include "tidegate.name" .) .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tidegate.name" .) | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ include "tidegate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tidegate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "tidegate.selector" . }}
{{- end }}

{{- define "tidegate.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end }}
{{- end }}

{{- define "tidegate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "tidegate.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "tidegate.tokenSecret" -}}
{{- default (printf "%s-admin" (include "tidegate.fullname" .)) .Values.admin.tokenSecret }}
{{- end }}

{{- define "tidegate.configMap" -}}
{{- default (printf "%s-config" (include "tidegate.fullname" .)) .Values.existingConfigMap }}
{{- end }}

{{- /* "10s", "1m" or "1m30s" in seconds. */}}
{{- define "tidegate.seconds" -}}
{{- $total := 0 }}
{{- range regexFindAll "[0-9]+(h|m|s)" . -1 }}
{{- $number := regexFind "[0-9]+" . | int }}
{{- $total = add $total (mul $number (get (dict "h" 3600 "m" 60 "s" 1) (regexFind "[hms]" .))) }}
{{- end }}
{{- $total }}
{{- end }}

{{- define "tidegate.admin" -}}
address: :9901
token: ${env:TIDEGATE_ADMIN_TOKEN}
{{- if not .Values.admin.console }}
console: false
{{- end }}
{{- end }}

{{- /* What the chart says, and over it what the values say. */}}
{{- define "tidegate.config" -}}
{{- $own := dict
    "admin" (include "tidegate.admin" . | fromYaml)
    "state_dir" "/var/lib/tidegate"
    "watch" (eq .Values.reload "watch")
    "shutdown" (dict "unready_for" .Values.shutdown.unreadyFor "grace" .Values.shutdown.grace) }}
{{- with (dig "limits" "cpu" "" .Values.resources) }}
{{- $cpu := toString . }}
{{- $threads := ternary (div (add (trimSuffix "m" $cpu | int) 999) 1000) (ceil ($cpu | float64) | int) (hasSuffix "m" $cpu) }}
{{- $_ := set $own "threads" (max 1 $threads) }}
{{- end }}
{{- mergeOverwrite $own (deepCopy .Values.config) | toYaml }}
{{- end }}

{{- define "tidegate.securityContext" -}}
{{- $own := dict
    "allowPrivilegeEscalation" false
    "readOnlyRootFilesystem" true
    "runAsNonRoot" true
    "runAsUser" 65532
    "runAsGroup" 65532
    "capabilities" (dict "drop" (list "ALL"))
    "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- mergeOverwrite $own (deepCopy .Values.securityContext) | toYaml }}
{{- end }}

{{- define "tidegate.podSecurityContext" -}}
{{- $own := dict
    "runAsNonRoot" true
    "runAsUser" 65532
    "runAsGroup" 65532
    "fsGroup" 65532
    "fsGroupChangePolicy" "OnRootMismatch"
    "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- mergeOverwrite $own (deepCopy .Values.podSecurityContext) | toYaml }}
{{- end }}

{{- /* Whether there is more than one pod, as far as that is known here. */}}
{{- define "tidegate.isMany" -}}
{{- if or (eq .Values.kind "DaemonSet") .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}true{{- end }}
{{- end }}

{{- /* Whether the operator of Prometheus is there. */}}
{{- define "tidegate.knows" -}}
{{- if or .root.Values.monitoring.force (.root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind)) }}true{{- end }}
{{- end }}

{{- /*
A sidecar for pods of yours: a native one, which starts before the application and ends after it.
Beside it the pod needs the volumes of "tidegate.sidecarVolumes". Both take (dict "root" $ "config" NAME), where NAME is a
ConfigMap with sidecar.yaml in it, and the root is that of this chart: .Subcharts.tidegate. See deploy/helm/examples/app.
*/}}
{{- define "tidegate.sidecar" -}}
- name: tidegate
  image: {{ include "tidegate.image" .root | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  restartPolicy: Always
  args: [run, -c, /etc/tidegate/sidecar.yaml]
  env:
    - name: TIDEGATE_ADMIN_TOKEN
      valueFrom: {secretKeyRef: {name: {{ include "tidegate.tokenSecret" .root }}, key: token}}
  ports:
    - {name: tidegate-admin, containerPort: 9901}
  startupProbe:
    httpGet: {path: {{ .root.Values.probes.startup }}, port: tidegate-admin}
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe:
    httpGet: {path: {{ .root.Values.probes.liveness }}, port: tidegate-admin}
    periodSeconds: 10
  securityContext:
    {{- include "tidegate.securityContext" .root | nindent 4 }}
  resources:
    {{- toYaml .root.Values.resources | nindent 4 }}
  volumeMounts:
    - {name: tidegate-config, mountPath: /etc/tidegate, readOnly: true}
    - {name: tidegate-state, mountPath: /var/lib/tidegate}
{{- end }}

{{- define "tidegate.sidecarVolumes" -}}
- name: tidegate-config
  configMap: {name: {{ .config }}}
- name: tidegate-state
  emptyDir: {sizeLimit: 64Mi}
{{- end }}

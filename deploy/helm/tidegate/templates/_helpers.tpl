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

{{- /* Values that cannot work are refused here, and not by pods that never become ready. */}}
{{- define "tidegate.refuse" -}}
{{- if not .Values.existingConfigMap }}
{{- include "tidegate.refuseAdmin" (dict "config" .Values.config "name" "config") }}
{{- $listens := list }}
{{- $isKnown := and (kindIs "slice" (get .Values.config "listeners")) (not (hasKey .Values.config "sidecar")) (not (hasKey .Values.config "include")) }}
{{- range (ternary (get .Values.config "listeners") list $isKnown) }}
{{- $address := toString (get . "address") }}
{{- if or (contains "${" $address) (hasPrefix "systemd:" $address) }}{{- $isKnown = false }}{{- end }}
{{- if not (or (hasPrefix "127." $address) (hasPrefix "[::1]" $address) (hasPrefix "unix:" $address)) }}
{{- $listens = append $listens (regexFind "[0-9]+$" $address) }}
{{- end }}
{{- end }}
{{- range $name, $port := .Values.service.ports }}
{{- $target := get $.Values.service.targetPorts $name | toString }}
{{- if and $isKnown (hasKey $.Values.service.targetPorts $name) (not (has $target $listens)) }}
{{- fail (printf "service.targetPorts.%s is %s, and no listener of config.listeners has that port for others than the pod itself" $name $target) }}
{{- end }}
{{- end }}
{{- end }}
{{- if hasKey .Values.service.targetPorts "admin" }}
{{- fail "service.targetPorts.admin: that name is the admin port's, which stays within the cluster" }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- if eq .Values.kind "DaemonSet" }}
{{- fail "autoscaling.enabled: a DaemonSet has a pod on each node" }}
{{- end }}
{{- if gt (int .Values.autoscaling.min) (int .Values.autoscaling.max) }}
{{- fail "autoscaling.min is more than autoscaling.max" }}
{{- end }}
{{- if not (dig "requests" "cpu" "" .Values.resources) }}
{{- fail "autoscaling goes by the share of resources.requests.cpu, which is not set" }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Probes and Prometheus ask port 9901 of the pod. */}}
{{- define "tidegate.refuseAdmin" -}}
{{- if hasKey .config "admin" }}
{{- $admin := get .config "admin" }}
{{- if not (kindIs "map" $admin) }}
{{- fail (printf "%s.admin is %v: the probes need the admin API; write a map, such as {console: false}" .name $admin) }}
{{- end }}
{{- $address := dig "address" ":9901" $admin | toString }}
{{- if contains "${" $address }}
{{- else if or (not (hasSuffix ":9901" $address)) (hasPrefix "127." $address) (hasPrefix "localhost" $address) (hasPrefix "[::1]" $address) }}
{{- fail (printf "%s.admin.address is %s: the probes ask port 9901 of the pod, so leave it out" .name $address) }}
{{- end }}
{{- end }}
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

{{- /* Whether Prometheus is to ask pods of this release: of a chart with a sidecar alone they are none. */}}
{{- define "tidegate.isWatched" -}}
{{- if or (ne .Values.kind "Sidecar") .Values.controlPlane.enabled }}true{{- end }}
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
ConfigMap with sidecar.yaml in it, and the root is that of this chart: .Subcharts.tidegate. "tidegate.sidecar" also takes "mounts", a list
of further volumeMounts, such as the socket of SPIRE's agent, and "ports", the listeners' ports by name. See deploy/helm/examples/app.
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
    {{- range $name, $port := .ports }}
    - {name: {{ $name }}, containerPort: {{ $port }}}
    {{- end }}
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
    {{- with .mounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "tidegate.sidecarVolumes" -}}
- name: tidegate-config
  configMap: {name: {{ .config }}}
- name: tidegate-state
  emptyDir: {sizeLimit: 64Mi}
{{- end }}

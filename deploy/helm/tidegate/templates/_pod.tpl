{{- define "tidegate.pod" -}}
metadata:
  labels:
    {{- include "tidegate.labels" . | nindent 4 }}
    app.kubernetes.io/component: gateway
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.podAnnotations (eq .Values.reload "rollout") }}
  annotations:
    {{- if and (eq .Values.reload "rollout") (not .Values.existingConfigMap) }}
    checksum/config: {{ include "tidegate.config" . | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "tidegate.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add (include "tidegate.seconds" .Values.shutdown.unreadyFor) (include "tidegate.seconds" .Values.shutdown.grace) 15 }}
  securityContext:
    {{- include "tidegate.podSecurityContext" . | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  initContainers:
    # A configuration that is wrong keeps the pod from starting, and says why in its log.
    - name: check
      {{- include "tidegate.container" . | nindent 6 }}
      args: [check, -c, /etc/tidegate/gateway.yaml]
  containers:
    - name: tidegate
      {{- include "tidegate.container" . | nindent 6 }}
      args: [run, -c, /etc/tidegate/gateway.yaml{{ range .Values.extraArgs }}, {{ . | quote }}{{ end }}]
      ports:
        - {name: admin, containerPort: 9901}
        {{- range $name, $port := .Values.service.targetPorts }}
        - {name: {{ $name }}, containerPort: {{ $port }}}
        {{- end }}
      startupProbe:
        httpGet: {path: {{ .Values.probes.startup }}, port: admin}
        periodSeconds: 1
        failureThreshold: 120
      livenessProbe:
        httpGet: {path: {{ .Values.probes.liveness }}, port: admin}
        periodSeconds: 10
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: {{ .Values.probes.readiness }}, port: admin}
        periodSeconds: 2
        failureThreshold: 2
  volumes:
    - name: config
      configMap: {name: {{ include "tidegate.configMap" . }}}
    {{- if ne .Values.kind "StatefulSet" }}
    - name: state
      emptyDir: {sizeLimit: 64Mi}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  topologySpreadConstraints:
    {{- if .Values.topologySpreadConstraints }}
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "tidegate.selector" $ | nindent 10 }}
          app.kubernetes.io/component: gateway
    {{- end }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* What the gateway and its check have in common. */}}
{{- define "tidegate.container" -}}
image: {{ include "tidegate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: TIDEGATE_ADMIN_TOKEN
    valueFrom: {secretKeyRef: {name: {{ include "tidegate.tokenSecret" . }}, key: token}}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "tidegate.securityContext" . | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  # As a directory: files mounted by subPath are never updated.
  - {name: config, mountPath: /etc/tidegate, readOnly: true}
  - {name: state, mountPath: /var/lib/tidegate}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "calico.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "calico.labels" -}}
app.kubernetes.io/name: calico
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "calico.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Pods run without rights, and write to their own folders alone. */}}
{{- define "calico.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "calico.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "calico.databaseEnv" -}}
- name: CALICO_DATABASE_URL
  valueFrom: { secretKeyRef: { name: {{ .Values.database.secret }}, key: {{ .Values.database.key }} } }
{{- end }}

{{- define "calico.env" -}}
{{ include "calico.databaseEnv" . }}
- name: CALICO_BASIC_AUTH_USER
  valueFrom: { secretKeyRef: { name: {{ .Values.access.secret }}, key: {{ .Values.access.userKey }} } }
- name: CALICO_BASIC_AUTH_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ .Values.access.secret }}, key: {{ .Values.access.passwordKey }} } }
- name: LABEL_STUDIO_URL
  value: {{ .Values.labelStudio.url | quote }}
- name: LABEL_STUDIO_API_KEY
  valueFrom: { secretKeyRef: { name: {{ .Values.labelStudio.secret }}, key: {{ .Values.labelStudio.key }} } }
- name: CALICO_ADAPTERS_URL
  value: {{ .Values.adapters.url | quote }}
- name: CALICO_LOG_FORMAT
  value: json
{{- if .Values.weights.claim }}
- name: CALICO_WEIGHTS
  value: {{ .Values.weights.folder | quote }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "calico.envFrom" -}}
{{- with .Values.adapters.secret }}
envFrom:
- secretRef: { name: {{ . }} }
{{- end }}
{{- end }}

{{- define "calico.mounts" -}}
volumeMounts:
- { name: data, mountPath: /data }
- { name: tmp, mountPath: /tmp }
{{- if .Values.adapters.claim }}
- { name: adapters, mountPath: /adapters }
{{- end }}
{{- if .Values.weights.claim }}
- { name: weights, mountPath: /weights, readOnly: true }
{{- end }}
{{- end }}

{{- define "calico.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if .Values.adapters.claim }}
- name: adapters
  persistentVolumeClaim: { claimName: {{ .Values.adapters.claim }} }
{{- end }}
{{- if .Values.weights.claim }}
- name: weights
  persistentVolumeClaim: { claimName: {{ .Values.weights.claim }}, readOnly: true }
{{- end }}
{{- end }}

{{/* Objects in memory that processes of one pod share; messages of the fleet are small. */}}
{{- define "calico.rayVolumes" -}}
- name: shm
  emptyDir: { medium: Memory, sizeLimit: 512Mi }
{{ include "calico.volumes" . }}
{{- end }}

{{- define "calico.rayMounts" -}}
{{ include "calico.mounts" . }}
- { name: shm, mountPath: /dev/shm }
{{- end }}

{{/* A container of Ray's cluster: KubeRay's operator sets its command. */}}
{{- define "calico.rayContainer" -}}
image: {{ include "calico.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{ include "calico.containerSecurity" . }}
env:
{{ include "calico.env" . }}
{{ include "calico.envFrom" . }}
{{ include "calico.rayMounts" . }}
{{- end }}

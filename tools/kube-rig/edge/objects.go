package main

import (
	"fmt"
	"strings"
)

const (
	nodeName = "rig-node"
	pods     = "/api/v1/namespaces/default/pods"
	many     = "/api/v1/namespaces/many/configmaps"
)

type object = map[string]any

func podName(i int) string { return fmt.Sprintf("pod-%05d", i) }

// load creates what a node sees: its pods, Services with EndpointSlices, some
// ConfigMaps and Secrets. Nodes may do everything: what the API server allows
// is not the subject.
func (b *bench) load() error {
	logf("== creating %d pods, %d Services and EndpointSlices", b.pods, b.services)
	binding := object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": object{"name": "nodes"},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
		"subjects": []any{object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}},
	}
	if err := b.api.write("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding); err != nil {
		return err
	}
	if err := b.api.write("POST", "/api/v1/nodes", nodeObject(nodeName)); err != nil {
		return err
	}
	if err := b.loadNodePool(); err != nil {
		return err
	}
	err := each(200, func(i int) error {
		if err := b.api.write("POST", "/api/v1/namespaces/default/configmaps", configMapObject(i)); err != nil {
			return err
		}
		return b.api.write("POST", "/api/v1/namespaces/default/secrets", secretObject(i))
	})
	if err != nil {
		return err
	}
	err = each(b.pods, func(i int) error {
		if err := b.api.write("POST", pods, podObject(i, nodeName)); err != nil {
			return err
		}
		return b.api.write("PATCH", pods+"/"+podName(i)+"/status", object{"status": podStatus(i)})
	})
	if err != nil {
		return err
	}
	return each(b.services, func(i int) error {
		if err := b.api.write("POST", "/api/v1/namespaces/default/services", serviceObject(i)); err != nil {
			return err
		}
		return b.api.write("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", sliceObject(i))
	})
}

// loadMany creates small ConfigMaps.
func (b *bench) loadMany() error {
	if err := b.api.write("POST", "/api/v1/namespaces", object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": "many"}}); err != nil {
		return err
	}
	logf("creating %d ConfigMaps", b.objects)
	return each(b.objects, func(i int) error {
		return b.api.write("POST", many, object{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": fmt.Sprintf("m%05d", i)},
			"data": object{"key": fmt.Sprintf("value %d", i)},
		})
	})
}

func metadata(name string) object {
	return object{"name": name, "namespace": "default", "labels": object{"app": name, "app.kubernetes.io/part-of": "bench", "tier": "edge"}}
}

func nodeObject(name string) object {
	labels := object{"kubernetes.io/hostname": name, "apps.openyurt.io/nodepool": nodePool}
	return object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": name, "labels": labels}}
}

func configMapObject(i int) object {
	var text strings.Builder
	for k := range 50 {
		fmt.Fprintf(&text, "key%d: value-%d\n", k, i)
	}
	return object{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(fmt.Sprintf("cm-%05d", i)),
		"data": object{"config.yaml": text.String()},
	}
}

func secretObject(i int) object {
	return object{
		"apiVersion": "v1", "kind": "Secret", "metadata": metadata(fmt.Sprintf("sec-%05d", i)),
		"stringData": object{"password": fmt.Sprintf("%064x", i), "user": fmt.Sprintf("u%d", i)},
	}
}

// podObject is about as large as a pod of a real cluster.
func podObject(i int, node string) object {
	meta := metadata(podName(i))
	meta["annotations"] = object{"checksum/config": fmt.Sprintf("%064x", i), "kubernetes.io/config.source": "api"}
	env := []any{object{"name": "NODE", "valueFrom": object{"fieldRef": object{"fieldPath": "spec.nodeName"}}}}
	for k := range 12 {
		env = append(env, object{"name": fmt.Sprintf("VAR_%d", k), "value": fmt.Sprintf("value-%d-%d", i, k)})
	}
	probe := func(path string, seconds int) object {
		return object{"httpGet": object{"path": path, "port": 8080}, "periodSeconds": seconds}
	}
	container := object{
		"name": "main", "image": image(i), "args": []any{"--config=/etc/cfg/config.yaml", "--log-level=info"}, "env": env,
		"ports": []any{object{"containerPort": 8080, "name": "http"}, object{"containerPort": 9090, "name": "metrics"}},
		"resources": object{
			"requests": object{"cpu": "50m", "memory": "64Mi"}, "limits": object{"cpu": "500m", "memory": "256Mi"},
		},
		"livenessProbe": probe("/healthz", 10), "readinessProbe": probe("/readyz", 5),
		"volumeMounts": []any{
			object{"name": "cfg", "mountPath": "/etc/cfg"}, object{"name": "sec", "mountPath": "/etc/sec"},
			object{"name": "tmp", "mountPath": "/tmp"},
		},
	}
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": object{
		"nodeName": node, "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "serviceAccountName": "default",
		"volumes": []any{
			object{"name": "cfg", "configMap": object{"name": fmt.Sprintf("cm-%05d", i%200)}},
			object{"name": "sec", "secret": object{"secretName": fmt.Sprintf("sec-%05d", i%200)}},
			object{"name": "tmp", "emptyDir": object{}},
		},
		"containers": []any{container},
	}}
}

func podStatus(i int) object {
	const at = "2026-01-01T00:00:00Z"
	var conditions []any
	for _, name := range []string{"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		conditions = append(conditions, object{"type": name, "status": "True", "lastTransitionTime": at})
	}
	return object{
		"phase": "Running", "podIP": address(i), "podIPs": []any{object{"ip": address(i)}}, "hostIP": "192.0.2.10",
		"startTime": at, "qosClass": "Burstable", "conditions": conditions,
		"containerStatuses": []any{object{
			"name": "main", "ready": true, "started": true, "restartCount": 0, "image": image(i),
			"imageID": fmt.Sprintf("sha256:%064x", i), "containerID": fmt.Sprintf("containerd://%064x", i*7+1),
			"state": object{"running": object{"startedAt": at}},
		}},
	}
}

func image(i int) string {
	return fmt.Sprintf("registry.example.com/team/service-%d:v1.%d.0", i%40, i%9)
}

func address(i int) string { return fmt.Sprintf("10.%d.%d.%d", 200+i/65536, i/256%256, i%256) }

func serviceObject(i int) object {
	name := fmt.Sprintf("svc-%05d", i)
	return object{"apiVersion": "v1", "kind": "Service", "metadata": metadata(name), "spec": object{
		"selector": object{"app": name},
		"ports":    []any{object{"name": "http", "port": 80, "targetPort": 8080}, object{"name": "metrics", "port": 9090}},
	}}
}

func sliceName(i int) string { return fmt.Sprintf("svc-%05d-abcde", i) }

func sliceObject(i int) object {
	var endpoints []any
	for _, k := range []int{2 * i, 2*i + 1} {
		endpoints = append(endpoints, object{
			"addresses": []any{address(k)}, "conditions": object{"ready": true, "serving": true}, "nodeName": nodeName,
			"targetRef": object{"kind": "Pod", "name": podName(k), "namespace": "default"},
		})
	}
	return object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata": object{"name": sliceName(i), "namespace": "default", "labels": object{
			"kubernetes.io/service-name":             fmt.Sprintf("svc-%05d", i),
			"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
		}},
		"ports":     []any{object{"name": "http", "port": 8080, "protocol": "TCP"}, object{"name": "metrics", "port": 9090, "protocol": "TCP"}},
		"endpoints": endpoints,
	}
}

package main

import "fmt"

const (
	gatewaysPath = "/apis/gateway.networking.k8s.io/v1/namespaces/" + namespace + "/gateways"
	routesPath   = "/apis/gateway.networking.k8s.io/v1/namespaces/" + namespace + "/httproutes"
)

// Routes that exist all the time.
const steadyRoutes = 10

func hostOf(i int) string { return fmt.Sprintf("h%d.example.test", i) }
func steady(i int) string { return fmt.Sprintf("steady%d.example.test", i%steadyRoutes) }

// A route is what changes of an HTTPRoute.
type route struct {
	name, service string
	revision      string // value of the response header x-revision, set by a filter
}

func (r route) host() string { return r.name + ".example.test" }
func (r route) path() string { return routesPath + "/" + r.name }

func (r route) rules() []any {
	rule := map[string]any{"backendRefs": []any{map[string]any{"name": r.service, "port": 80}}}
	if r.revision != "" {
		rule["filters"] = []any{map[string]any{
			"type": "ResponseHeaderModifier",
			"responseHeaderModifier": map[string]any{
				"set": []any{map[string]any{"name": "x-revision", "value": r.revision}},
			},
		}}
	}
	return []any{rule}
}

func (r route) object() map[string]any {
	return map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
		"metadata": map[string]any{"name": r.name},
		"spec": map[string]any{
			"parentRefs": []any{map[string]any{"name": gateway}},
			"hostnames":  []any{r.host()},
			"rules":      r.rules(),
		},
	}
}

func deploymentObject(name string) map[string]any {
	labels := map[string]any{"app": name}
	container := map[string]any{
		"name": "backend", "image": "scale-backend:local",
		"ports":          []any{map[string]any{"containerPort": backendPort}},
		"readinessProbe": map[string]any{"httpGet": map[string]any{"path": "/", "port": backendPort}},
		"env": []any{
			map[string]any{"name": "SERVICE_NAME", "value": name},
			map[string]any{"name": "POD_NAME", "valueFrom": map[string]any{"fieldRef": map[string]any{"fieldPath": "metadata.name"}}},
		},
	}
	return map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec":     map[string]any{"containers": []any{container}},
			},
		},
	}
}

func serviceObject(name string, selector map[string]any) map[string]any {
	spec := map[string]any{"ports": []any{map[string]any{"name": "http", "port": 80, "targetPort": backendPort}}}
	if selector != nil {
		spec["selector"] = selector
	}
	return map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": name}, "spec": spec}
}

// sliceObject has the one endpoint of the Service without a selector, "moving".
func sliceObject(ip string) map[string]any {
	return map[string]any{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
		"metadata": map[string]any{"name": "moving-1", "labels": map[string]any{
			"kubernetes.io/service-name": "moving", "endpointslice.kubernetes.io/managed-by": "scale"}},
		"addressType": "IPv4",
		"ports":       []any{map[string]any{"name": "http", "port": backendPort, "protocol": "TCP"}},
		"endpoints": []any{map[string]any{"addresses": []any{ip},
			"conditions": map[string]any{"ready": true, "serving": true, "terminating": false}}},
	}
}

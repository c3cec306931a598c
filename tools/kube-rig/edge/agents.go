package main

import (
	"context"
	"time"
)

// nodeAgent is a client of the API on a node: its User-Agent, and what it lists and
// watches.
type nodeAgent struct {
	userAgent string
	paths     []string
}

const (
	allServices = "/api/v1/services?"
	allSlices   = "/apis/discovery.k8s.io/v1/endpointslices?"
	noHeadless  = "labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name"
)

func podsOf(node string) string { return "/api/v1/pods?fieldSelector=spec.nodeName%3D" + node }

// basicAgents are those that every node has: kubelet and kube-proxy.
func basicAgents(node string) []nodeAgent {
	return []nodeAgent{
		{agent, []string{
			podsOf(node), allServices, "/api/v1/nodes?fieldSelector=metadata.name%3D" + node,
			"/api/v1/namespaces/default/configmaps?", "/api/v1/namespaces/default/secrets?",
		}},
		{"kube-proxy/v1.34.0 (linux/amd64) kubernetes/0000000", []string{allServices + noHeadless, allSlices + noHeadless}},
	}
}

// fiveAgents are those and the agents of a network, a DNS server and a gateway.
// Hubs of both kinds keep what these ask for.
func fiveAgents(node string) []nodeAgent {
	return append(basicAgents(node),
		nodeAgent{"coredns/v1.12.0", []string{allServices, allSlices, "/api/v1/namespaces?"}},
		nodeAgent{"flanneld/v0.26.0", []string{"/api/v1/nodes?"}},
		nodeAgent{"raven-agent/v0.4.2", []string{allServices, allSlices}},
	)
}

// reflect starts a reflector for each path. An agent has one HTTP client.
func reflect(ctx context.Context, e endpoint, agents []nodeAgent, accept string) []*reflector {
	var all []*reflector
	for _, a := range agents {
		client := e.connection(0)
		for _, path := range a.paths {
			r := &reflector{client: client, endpoint: e, path: path, agent: a.userAgent, accept: accept}
			go r.run(ctx)
			all = append(all, r)
		}
	}
	return all
}

var encodings = []struct{ name, accept string }{{"protobuf", asProtobuf}, {"json", asJSON}}

// held starts the agents of the node, and waits until they watch.
func (h *hub) held(ctx context.Context, accept string) error {
	return watching(reflect(ctx, h.endpoint(), basicAgents(nodeName), accept), time.Minute)
}

package main

import (
	"flag"
	"fmt"
	"time"
)

const (
	// How long a gateway may take to start.
	startLimit = 2 * time.Minute
	slicePath  = "/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices/moving-1"
)

// setup creates the backends "a" and "b", the Service "moving" that has an
// EndpointSlice of ours, the Gateway, and the fixed routes.
func setup(o *options, fs *flag.FlagSet, args []string) error {
	k, err := o.connect(fs, args)
	if err != nil {
		return err
	}
	begin := time.Now()
	apply := func(path string, object any) {
		if err == nil {
			err = k.do("APPLY", path, object, nil)
		}
	}
	services := "/api/v1/namespaces/" + namespace + "/services/"
	apply("/api/v1/namespaces/"+namespace, map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace},
	})
	for _, name := range []string{"a", "b"} {
		apply("/apis/apps/v1/namespaces/"+namespace+"/deployments/"+name, deploymentObject(name))
		apply(services+name, serviceObject(name, map[string]any{"app": name}))
	}
	apply(services+"moving", serviceObject("moving", nil))
	apply(gatewaysPath+"/"+gateway, map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": map[string]any{"name": gateway},
		"spec": map[string]any{"gatewayClassName": o.class, "listeners": []any{map[string]any{
			"name": "http", "port": 80, "protocol": "HTTP",
		}}},
	})
	fixed := []route{{name: "move", service: "moving"}}
	for i := range steadyRoutes {
		fixed = append(fixed, route{name: fmt.Sprintf("steady%d", i), service: "a"})
	}
	for _, r := range fixed {
		apply(r.path(), r.object())
	}
	if err != nil {
		return err
	}
	a, err := k.readyPod("a")
	if err != nil {
		return err
	}
	if err := k.do("APPLY", slicePath, sliceObject(a.ip), nil); err != nil {
		return err
	}
	for o.address == "" {
		if o.address, err = k.gatewayAddress(); err != nil {
			if time.Since(begin) > startLimit {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	p := newPoller(o)
	for _, r := range fixed {
		if v := p.until(begin, r.host(), startLimit, 0, func(a answer) bool { return a.okFor(r.host()) }); v.Timeout {
			return fmt.Errorf("%s does not answer 200: %v", r.host(), v.Seen)
		}
	}
	logf("gateway at %s, %d fixed routes answer after %.1f s", o.address, len(fixed), time.Since(begin).Seconds())
	return o.write(map[string]any{"address": o.address, "seconds": time.Since(begin).Seconds()})
}

type pod struct{ name, ip string }

// readyPod waits for a pod of a Deployment.
func (k *api) readyPod(app string) (pod, error) {
	for begin := time.Now(); time.Since(begin) < startLimit; time.Sleep(50 * time.Millisecond) {
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Status   struct {
					PodIP      string
					Conditions []struct{ Type, Status string }
				}
			}
		}
		if err := k.do("GET", "/api/v1/namespaces/"+namespace+"/pods?labelSelector=app%3D"+app, nil, &list); err != nil {
			return pod{}, err
		}
		for _, item := range list.Items {
			for _, c := range item.Status.Conditions {
				if c.Type == "Ready" && c.Status == "True" {
					return pod{item.Metadata.Name, item.Status.PodIP}, nil
				}
			}
		}
	}
	return pod{}, fmt.Errorf("no pod of %s is ready after %s", app, startLimit)
}

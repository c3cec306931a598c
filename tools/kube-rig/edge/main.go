// Command edge-bench measures caching gateways ("hubs") of the Kubernetes API
// side by side: memory, CPU, latency, cut links, restarts without the API
// server, bytes written, and what many hubs cost the API server.
// `cargo xtask bench edge` runs it in the network namespace of a rig; see
// README.md of kube-rig.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

type options struct {
	pods, services, objects int
	gets, lists, events     int
	rate                    float64
	fleets                  []int
	down, settle, rest      time.Duration
	only                    string
	json                    string
}

// bench is one run: the cluster, and what is measured in it.
type bench struct {
	options
	api    *api
	server server
	device device
	marks  int // how many were written
}

// figures are what one hub was measured at, by the name of the figure.
type figures map[string]float64

var steps = []struct {
	name, help string
	run        func(b *bench, h *hub, f figures) error
}{
	{"memory", "memory of an idle hub, and with a node's objects listed and watched", memory},
	{"requests", "CPU and latency of GET and LIST", requests},
	{"events", "CPU, latency and bytes written per watch event", events},
	{"outage", "an API server that stands still, and comes back", outage},
	{"restart", "a restart without the API server", restart},
	{"fleet", "what many hubs cost the API server", fleets},
	{"objects", "a restart without the API server, with many objects", restartWithMany},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "edge-bench: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	o := options{}
	weir := flag.String("weir", "", "the weir binary")
	yurthub := flag.String("yurthub", "", "the yurthub binary; left out of the table where not given")
	flag.IntVar(&o.pods, "pods", 2000, "pods on the node")
	flag.IntVar(&o.services, "services", 1000, "Services, each with an EndpointSlice")
	flag.IntVar(&o.objects, "objects", 50000, "ConfigMaps for the restart with many objects")
	flag.IntVar(&o.gets, "gets", 2000, "GET requests")
	flag.IntVar(&o.lists, "lists", 10, "LIST requests of each encoding")
	flag.IntVar(&o.events, "events", 2000, "changes of pods")
	flag.Float64Var(&o.rate, "rate", 100, "changes per second")
	sizes := flag.String("fleet", "50", "numbers of hubs at a time, separated by commas")
	flag.DurationVar(&o.down, "down", time.Minute, "how long the API server stands still")
	flag.DurationVar(&o.settle, "settle", 5*time.Second, "pause before a process is read")
	flag.DurationVar(&o.rest, "rest", 30*time.Second, "how long a fleet at rest is watched")
	flag.StringVar(&o.only, "only", "", "steps to run, separated by commas: "+stepNames())
	flag.StringVar(&o.json, "json", "", "write the figures to this file too")
	flag.Parse()
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 || n > 4000 {
			return fmt.Errorf("-fleet %q: expected numbers from 1 to 4000, separated by commas", *sizes)
		}
		o.fleets = append(o.fleets, n)
	}
	b := &bench{options: o}
	for _, name := range b.selected() {
		if !strings.Contains(stepNames(), name) {
			return fmt.Errorf("no step %q; there are %s", name, stepNames())
		}
	}
	var kinds []kind
	for _, k := range []kind{{"YurtHub", *yurthub, startYurtHub}, {"Weir", *weir, startWeir}} {
		if k.binary != "" {
			kinds = append(kinds, k)
		}
	}
	state := filepath.Dir(os.Getenv("KUBECONFIG"))
	if len(kinds) == 0 || state == "." {
		return fmt.Errorf("needs -weir, and KUBECONFIG as kube-rig exec sets it")
	}
	var err error
	if b.api, err = newAPI(state); err != nil {
		return err
	}
	b.server = server{state: state}
	if b.device, err = newDevice(filepath.Join(state, "hubs")); err != nil {
		return err
	}
	if err := b.load(); err != nil {
		return err
	}
	results := map[string]figures{}
	var failed error
	for _, step := range steps {
		if selected := b.selected(); len(selected) > 0 && !slices.Contains(selected, step.name) {
			continue
		}
		for _, k := range kinds {
			if results[k.name] == nil {
				results[k.name] = figures{}
			}
			logf("== %s: %s", k.name, step.name)
			h := &hub{kind: k, bench: b, node: nodeName, address: firstAddress}
			err := step.run(b, h, results[k.name])
			h.kill()
			b.server.restore()
			// What follows does not depend on it.
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %s: %w", k.name, step.name, err))
			}
		}
	}
	fmt.Print(o.table(kinds, results))
	if b.json == "" {
		return failed
	}
	text, err := json.MarshalIndent(map[string]any{"options": o.described(), "figures": results}, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(failed, os.WriteFile(b.json, append(text, '\n'), 0o644))
}

func (o options) selected() []string {
	if o.only == "" {
		return nil
	}
	return strings.Split(o.only, ",")
}

func (o options) described() map[string]any {
	return map[string]any{
		"pods": o.pods, "services": o.services, "objects": o.objects, "gets": o.gets, "lists": o.lists,
		"events": o.events, "rate": o.rate, "fleet": o.fleets, "down_s": o.down.Seconds(),
	}
}

func stepNames() string {
	var names []string
	for _, s := range steps {
		names = append(names, s.name)
	}
	return strings.Join(names, ",")
}

var begin = time.Now()

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1f  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// percentile of values, which it sorts.
func percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, int(q*float64(len(values)-1)+0.5))]
}

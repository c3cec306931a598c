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
	"sync/atomic"
	"time"
)

type options struct {
	pods, services, objects int
	gets, lists, events     int
	kills                   int
	rate                    float64
	fleets                  []int
	down, settle, rest      time.Duration
	fleetDown, syncDelay    time.Duration
	memorySettle            time.Duration
	limit                   time.Duration
	only                    string
	json                    string
}

// bench is one run: the cluster, and what is measured in it.
type bench struct {
	options
	api    *api
	server server
	device device
	marks  atomic.Int64 // how many were written
}

// figures are what one hub was measured at, by the name of the figure.
type figures map[string]float64

// steps are measured for each kind of hub.
var steps = []struct {
	name string
	run  func(b *bench, h *hub, f figures) error
}{
	{"memory", memory},
	{"requests", requests},
	{"noisy", noisy},
	{"events", events},
	{"slow-disk", slowEvents},
	{"outage", outage},
	{"restart", restart},
	{"kills", kills},
	{"objects", restartWithMany},
}

// What many nodes cost comes last.
const fleetStep = "fleet"

// quick are the flags of a short run.
var quick = map[string]string{
	"pods": "200", "services": "100", "objects": "5000", "gets": "500", "lists": "3", "events": "500", "fleet": "3,6", "kills": "5",
	"down": "45s", "rest": "5s", "fleet-down": "10s", "settle": "2s", "memory-settle": "10s",
}

func main() {
	if os.Args[0] == slowSync {
		fmt.Fprintf(os.Stderr, "%s: %v\n", slowSync, becomeSlow(os.Args[1:]))
		os.Exit(1)
	}
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
	flag.IntVar(&o.kills, "kills", 20, "how often the hub is killed while pods change")
	flag.DurationVar(&o.syncDelay, "sync-delay", 100*time.Millisecond, "how long fsync takes on the slow disk")
	flag.DurationVar(&o.fleetDown, "fleet-down", time.Minute, "how long the links of a fleet are cut")
	flag.DurationVar(&o.limit, "limit", time.Hour, "begin nothing more after this time")
	short := flag.Bool("quick", false, "measure less of everything, for a few minutes in all")
	sizes := flag.String("fleet", "50,100,200", "numbers of nodes in a fleet, each larger than the one before it, separated by commas")
	flag.DurationVar(&o.down, "down", time.Minute, "how long the API server stands still")
	flag.DurationVar(&o.settle, "settle", 5*time.Second, "pause before a process is read")
	flag.DurationVar(&o.memorySettle, "memory-settle", 30*time.Second, "the same before its memory is read: what lists needed for a moment goes back to the system")
	flag.DurationVar(&o.rest, "rest", 30*time.Second, "how long a fleet at rest is watched")
	flag.StringVar(&o.only, "only", "", "steps to run, separated by commas: "+strings.Join(stepNames(), ","))
	flag.StringVar(&o.json, "json", "", "write the figures to this file too")
	flag.Parse()
	if *short {
		given := map[string]bool{}
		flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for name, value := range quick {
			if !given[name] {
				_ = flag.Set(name, value)
			}
		}
	}
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 || n > 4000 || len(o.fleets) > 0 && n <= slices.Max(o.fleets) {
			return fmt.Errorf("-fleet %q: expected rising numbers from 1 to 4000, separated by commas", *sizes)
		}
		o.fleets = append(o.fleets, n)
	}
	b := &bench{options: o}
	for _, name := range b.selected() {
		if !slices.Contains(stepNames(), name) {
			return fmt.Errorf("no step %q; there are %s", name, strings.Join(stepNames(), ","))
		}
	}
	var kinds []kind
	for _, k := range []kind{{name: "YurtHub", binary: *yurthub, command: startYurtHub}, {name: weirName, binary: *weir, command: startWeir}} {
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
	results, failed := b.measure(kinds)
	fmt.Println(table(o.rows(), kinds, results, true))
	fmt.Print(table(o.fleetRows(), fleetKinds(kinds), results, false))
	if b.json == "" {
		return failed
	}
	text, err := json.MarshalIndent(map[string]any{"options": o.described(), "figures": results}, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(failed, os.WriteFile(b.json, append(text, '\n'), 0o644))
}

// measure runs the steps, for each kind in turn. What one step fails at, no
// other depends on.
func (b *bench) measure(kinds []kind) (map[string]figures, error) {
	results := map[string]figures{}
	var failed error
	one := func(step string, k kind, run func(f figures) error) {
		if selected := b.selected(); !slices.Contains(selected, step) {
			return
		}
		if time.Since(begin) > b.limit {
			failed = errors.Join(failed, fmt.Errorf("%s: %s: no time is left of %s", k.name, step, b.limit))
			return
		}
		if results[k.name] == nil {
			results[k.name] = figures{}
		}
		logf("== %s: %s", step, k.name)
		err := run(results[k.name])
		b.server.restore()
		if err != nil {
			logf("%v", err)
			failed = errors.Join(failed, fmt.Errorf("%s: %s: %w", k.name, step, err))
		}
	}
	for _, step := range steps {
		for _, k := range kinds {
			one(step.name, k, func(f figures) error {
				h := &hub{kind: k, bench: b, node: nodeName, address: firstAddress}
				defer h.kill()
				return step.run(b, h, f)
			})
		}
	}
	for _, k := range fleetKinds(kinds) {
		one(fleetStep, k, func(f figures) error { return fleets(b, k, f) })
	}
	return results, failed
}

func (o options) selected() []string {
	if o.only == "" {
		return stepNames()
	}
	return strings.Split(o.only, ",")
}

func (o options) described() map[string]any {
	return map[string]any{
		"pods": o.pods, "services": o.services, "objects": o.objects, "gets": o.gets, "lists": o.lists,
		"events": o.events, "rate": o.rate, "kills": o.kills, "fleet": o.fleets, "down_s": o.down.Seconds(),
		"sync_delay_ms": o.syncDelay.Milliseconds(), "rest_s": o.rest.Seconds(), "fleet_down_s": o.fleetDown.Seconds(),
	}
}

func stepNames() []string {
	var names []string
	for _, s := range steps {
		names = append(names, s.name)
	}
	return append(names, fleetStep)
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

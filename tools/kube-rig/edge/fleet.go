package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	podsOfFleetNode = 20
	// No hub is started unless this much memory is free.
	spareMB   = 3000
	fleetMark = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/"
	// How many hubs start at a time.
	starting    = 4
	largestPool = 50
	poolPort    = "10269"
)

// noHub are agents that talk to the API server themselves.
const noHub = "no hub"

// fleetKinds are what is compared: agents without a hub, and each kind of hub.
// Weir shares some kinds of objects among the agents of a node unless it is
// told not to, and among the nodes of a pool where it is told so.
func fleetKinds(kinds []kind) []kind {
	all := []kind{{name: noHub}}
	for _, k := range kinds {
		if k.name == weirName {
			apart := k
			apart.name = "Weir, nothing shared"
			apart.arguments = func(*hub) []string { return []string{"--pool-scope-resources="} }
			pool := k
			pool.name, pool.arguments = "Weir, shared in pools", poolArguments
			all = append(all, apart, k, pool)
			continue
		}
		all = append(all, k)
	}
	return all
}

// fleets counts what many nodes with five agents each cost the API server:
// until all watches are open, at rest, and after an outage of all links at
// once. A fleet grows from one size to the next.
func fleets(b *bench, k kind, f figures) error {
	if err := b.loadFleet(slices.Max(b.fleets)); err != nil {
		return err
	}
	t := fleet{bench: b, kind: k, figures: f}
	defer t.end()
	return t.measure()
}

type fleet struct {
	*bench
	kind    kind
	figures figures
	name    string // of the figures of this size
	nodes   int
	hubs    []*hub
	clients []*reflector
	ctx     context.Context
	stop    context.CancelFunc
}

func fleetNode(i int) string    { return fmt.Sprintf("edge-%d", i) }
func fleetAddress(i int) string { return fmt.Sprintf("10.245.%d.%d", 33+i/200, 1+i%200) }

// poolArguments makes pools of 50 nodes, or of fewer where the first fleet has
// fewer.
func poolArguments(h *hub) []string {
	poolSize := min(largestPool, h.bench.fleets[0])
	var number int
	_, _ = fmt.Sscanf(h.node, "edge-%d", &number)
	first := number / poolSize * poolSize
	var peers []string
	for i := first; i < first+poolSize; i++ {
		peers = append(peers, fmt.Sprintf("%s=%s:%s", fleetNode(i), fleetAddress(i), poolPort))
	}
	return []string{"--pool-sharing", "--node-ip", h.address, "--multiplexer-port", poolPort, "--pool-peers", strings.Join(peers, ",")}
}

func (b *bench) loadFleet(size int) error {
	err := each(size, func(i int) error {
		return b.api.write("POST", "/api/v1/nodes", nodeObject(fleetNode(i)))
	})
	if err != nil {
		return err
	}
	return each(size*podsOfFleetNode, func(i int) error {
		pod := podObject(i, fleetNode(i/podsOfFleetNode))
		pod["metadata"] = metadata(fmt.Sprintf("edge-%05d", i))
		return b.api.write("POST", pods, pod)
	})
}

func (t *fleet) end() {
	t.stop()
	for _, h := range t.hubs {
		h.kill()
	}
}

func (t *fleet) measure() error {
	t.ctx, t.stop = context.WithCancel(context.Background())
	if err := t.server.count(); err != nil {
		return err
	}
	watchesBefore, err := t.server.watches(t.api)
	if err != nil {
		return err
	}
	var started meter
	for _, size := range t.fleets {
		t.name = fmt.Sprintf("fleet_%d", size)
		m := t.meter()
		grown, err := t.grow(size)
		if err != nil || !grown {
			return err
		}
		quiet(t.server.pid())
		// What the smaller fleets cost is part of the start of this one.
		started = started.plus(t.since(m))
		t.record("start", started)
		m = t.meter()
		time.Sleep(t.rest)
		t.record("rest", t.since(m))
		watches, err := t.server.watches(t.api)
		if err != nil {
			return err
		}
		t.set("watches", watches-watchesBefore)
		if err := t.outage(); err != nil {
			return err
		}
		var memory float64
		for _, h := range t.hubs {
			memory += residentMB(h.pid())
		}
		if len(t.hubs) > 0 {
			t.set("mb", memory/float64(size))
		}
	}
	return nil
}

// grow starts nodes until there are so many, unless there is too little memory
// for them.
func (t *fleet) grow(size int) (bool, error) {
	first := t.nodes
	t.nodes = size
	var mu sync.Mutex
	enough := true
	err := atOnce(starting, size-first, func(i int) error {
		if free := availableMB(); free < spareMB {
			mu.Lock()
			defer mu.Unlock()
			if enough {
				logf("%s: %.0f MB are free: no fleet of %d", t.kind.name, free, size)
			}
			enough = false
			return nil
		}
		h, clients, err := t.node(first + i)
		mu.Lock()
		defer mu.Unlock()
		if h != nil {
			t.hubs = append(t.hubs, h)
		}
		t.clients = append(t.clients, clients...)
		return err
	})
	return enough, err
}

// node starts the hub of a node, and its agents.
func (t *fleet) node(i int) (*hub, []*reflector, error) {
	agents := fiveAgents(fleetNode(i))
	if t.kind.name == noHub {
		clients := reflect(t.ctx, t.api.asNode(), agents, asProtobuf)
		return nil, clients, watching(clients, time.Minute)
	}
	h := &hub{kind: t.kind, bench: t.bench, node: fleetNode(i), address: fleetAddress(i)}
	if err := h.fresh(); err != nil {
		return h, nil, err
	}
	clients := reflect(t.ctx, h.endpoint(), agents, asProtobuf)
	return h, clients, watching(clients, time.Minute)
}

// outage cuts the link of all nodes. After its return it changes an
// EndpointSlice until each client has seen a change.
func (t *fleet) outage() error {
	if err := t.server.cut(blackHole); err != nil {
		return err
	}
	time.Sleep(t.fleetDown)
	lists, m := t.lists(), t.meter()
	t.server.heal()
	back := time.Now()
	first := int(t.marks.Load()) + 1
	for behind := 1; behind > 0; {
		if time.Since(back) > 3*time.Minute {
			return fmt.Errorf("%d clients see no change three minutes after the return of the link", behind)
		}
		if err := t.api.mark(fleetMark+sliceName(0), markText(t.nextMark())); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
		behind = 0
		for _, r := range t.clients {
			if strings.Contains(r.path, "endpointslices") && int(r.mark.Load()) < first {
				behind++
			}
		}
	}
	t.set("return_s", time.Since(back).Seconds())
	quiet(t.server.pid())
	t.record("return", t.since(m))
	t.set("return_lists", float64(t.lists()-lists))
	return nil
}

// lists is how often clients have listed.
func (t *fleet) lists() (sum int64) {
	for _, r := range t.clients {
		sum += r.lists.Load()
	}
	return sum
}

func (t *fleet) set(figure string, value float64) {
	t.figures[t.name+"_"+figure] = value
	logf("%s: %s: %s: %.2f", t.kind.name, t.name, figure, value)
}

// meter is what the API server has used so far, or in a while.
type meter struct {
	cpu  time.Duration
	sent float64
}

func (b *bench) meter() meter { return meter{cpu(b.server.pid()), b.server.sent()} }

func (b *bench) since(m meter) meter {
	now := b.meter()
	return meter{now.cpu - m.cpu, now.sent - m.sent}
}

func (m meter) plus(o meter) meter { return meter{m.cpu + o.cpu, m.sent + o.sent} }

func (t *fleet) record(phase string, m meter) {
	t.set(phase+"_cpu_s", m.cpu.Seconds())
	t.set(phase+"_sent_mb", m.sent/1e6)
}

func availableMB() float64 {
	text, _ := os.ReadFile("/proc/meminfo")
	return line(string(text), "MemAvailable") * 1024 / 1e6
}

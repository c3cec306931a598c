package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	podsOfFleetNode = 20
	// Another hub is started only while this much memory is free.
	spareMB   = 3000
	fleetMark = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/"
)

// fleets runs many hubs, each with a kubelet and a kube-proxy, and counts what
// they cost the API server: until all watches are open, at rest, and after an
// outage of all of them at once.
func fleets(b *bench, first *hub, f figures) error {
	for _, size := range b.fleets {
		if err := b.loadFleet(size); err != nil {
			return err
		}
		fleet := fleet{bench: b, name: fmt.Sprintf("fleet_%d", size), figures: f}
		err := fleet.measure(first.kind, size)
		fleet.end()
		if err != nil {
			return err
		}
	}
	return nil
}

type fleet struct {
	*bench
	name    string
	figures figures
	hubs    []*hub
	clients []*reflector
	stop    context.CancelFunc
}

func fleetNode(i int) string { return fmt.Sprintf("edge-%d", i) }

func (b *bench) loadFleet(size int) error {
	return each(size*podsOfFleetNode, func(i int) error {
		pod := podObject(i, fleetNode(i/podsOfFleetNode))
		pod["metadata"] = metadata(fmt.Sprintf("edge-%05d", i))
		return b.api.write("POST", pods, pod)
	})
}

func (t *fleet) end() {
	if t.stop != nil {
		t.stop()
	}
	for _, h := range t.hubs {
		h.kill()
	}
}

func (t *fleet) measure(k kind, size int) error {
	if err := t.server.count(); err != nil {
		return err
	}
	var ctx context.Context
	ctx, t.stop = context.WithCancel(context.Background())
	watchesBefore, err := t.server.watches(t.api)
	if err != nil {
		return err
	}
	m := t.meter()
	for i := range size {
		if free := availableMB(); free < spareMB {
			logf("%s: %.0f MB are free: no fleet of %d", k.name, free, size)
			return nil
		}
		h := &hub{kind: k, bench: t.bench, node: fleetNode(i), address: fmt.Sprintf("10.245.%d.%d", 33+i/200, 1+i%200)}
		t.hubs = append(t.hubs, h)
		if err := h.fresh(); err != nil {
			return err
		}
		clients := reflect(ctx, h.endpoint(), h.node, asProtobuf)
		if err := watching(clients, time.Minute); err != nil {
			return err
		}
		t.clients = append(t.clients, clients...)
	}
	quiet(t.server.pid())
	t.record("start", m)
	watches, err := t.server.watches(t.api)
	if err != nil {
		return err
	}
	t.set("watches", watches-watchesBefore)
	m = t.meter()
	time.Sleep(t.rest)
	t.record("rest", m)
	if err := t.outage(); err != nil {
		return err
	}
	var memory float64
	for _, h := range t.hubs {
		memory += residentMB(h.pid())
	}
	t.set("mb", memory/float64(size))
	return nil
}

// outage cuts the link of all hubs. After its return it changes an
// EndpointSlice until each client has seen a change.
func (t *fleet) outage() error {
	if err := t.server.cut(blackHole); err != nil {
		return err
	}
	time.Sleep(t.down)
	lists, m := t.lists(), t.meter()
	t.server.heal()
	back := time.Now()
	first := t.marks + 1
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
	t.record("return", m)
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
	logf("%s: %s: %.2f", t.name, figure, value)
}

// meter is what the API server has used so far.
type meter struct {
	at   time.Time
	cpu  time.Duration
	sent float64
}

func (b *bench) meter() meter { return meter{time.Now(), cpu(b.server.pid()), b.server.sent()} }

// record sets the CPU milliseconds and the MB since m, and how long that was.
func (t *fleet) record(phase string, m meter) {
	now := t.meter()
	t.set(phase+"_cpu_ms", ms(now.cpu-m.cpu))
	t.set(phase+"_sent_mb", (now.sent-m.sent)/1e6)
	t.set(phase+"_seconds", now.at.Sub(m.at).Seconds())
}

func availableMB() float64 {
	text, _ := os.ReadFile("/proc/meminfo")
	return line(string(text), "MemAvailable") * 1024 / 1e6
}

package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	probeEvery = 250 * time.Millisecond
	probeLimit = 90 * time.Second
	// A probe that takes longer has waited for the API server.
	slow = 100 * time.Millisecond
)

// probe is one GET on a connection of its own.
type probe struct {
	sent, took time.Duration // sent: since the cut
	good       bool
}

// outage stops the API server, whose connections stay open, and asks for a pod
// at a fixed rate. Then the API server goes on.
func outage(b *bench, h *hub, f figures) error {
	if err := h.fresh(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := h.held(ctx, asProtobuf); err != nil {
		return err
	}
	path := pods + "/" + podName(10%b.pods)
	if _, err := h.first(path, time.Minute); err != nil {
		return err
	}
	quiet(h.pid())
	probes, err := b.probe(h, path)
	if err != nil {
		return err
	}
	var settled time.Duration
	for _, p := range probes {
		f["outage_longest_wait_s"] = max(f["outage_longest_wait_s"], p.took.Seconds())
		if !p.good {
			f["outage_failed"]++
		}
		if !p.good || p.took >= slow {
			settled = max(settled, p.sent+probeEvery)
		}
	}
	f["outage_settled_s"] = settled.Seconds()
	f["outage_failed"] += 0
	f["outage_probes"] = float64(len(probes))
	var after []float64
	for _, p := range probes {
		if p.sent >= settled {
			after = append(after, ms(p.took))
		}
	}
	if len(after) > 0 {
		f["outage_then_p50_ms"], f["outage_then_max_ms"] = percentile(after, .5), percentile(after, 1)
	}
	fresh, err := b.returns(h, path)
	f["return_s"] = fresh.Seconds()
	logf("%s: longest wait %.2f s, at once after %.2f s, then %.1f ms at most; fresh data %.2f s after the return",
		h.name, f["outage_longest_wait_s"], f["outage_settled_s"], f["outage_then_max_ms"], f["return_s"])
	return err
}

func (b *bench) probe(h *hub, path string) ([]probe, error) {
	if err := b.server.stop(); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var probes []probe
	for cut := time.Now(); time.Since(cut) < b.down; time.Sleep(probeEvery) {
		wg.Go(func() {
			client := h.endpoint().connection(probeLimit)
			defer client.CloseIdleConnections()
			sent := time.Now()
			status, _, err := h.endpoint().get(client, path, asJSON)
			mu.Lock()
			defer mu.Unlock()
			probes = append(probes, probe{sent.Sub(cut), time.Since(sent), err == nil && status == http.StatusOK})
		})
	}
	wg.Wait()
	return probes, nil
}

// returns lets the API server go on, changes the object there, and asks the hub
// until it shows the change: the time from the return.
func (b *bench) returns(h *hub, path string) (time.Duration, error) {
	b.server.restore()
	back := time.Now()
	text := fmt.Sprintf("back-%d", back.UnixNano())
	for b.api.mark(path, text) != nil {
		if time.Since(back) > time.Minute {
			return 0, fmt.Errorf("the API server takes no write after its return")
		}
		time.Sleep(50 * time.Millisecond)
	}
	logf("the API server takes writes %.2f s after its return", time.Since(back).Seconds())
	for time.Since(back) < 2*time.Minute {
		client := h.endpoint().connection(10 * time.Second)
		_, body, err := h.endpoint().get(client, path, asJSON)
		client.CloseIdleConnections()
		if err == nil && strings.Contains(string(body), text) {
			return time.Since(back), nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return 0, fmt.Errorf("no fresh data two minutes after the return")
}

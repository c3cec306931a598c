package main

import (
	"fmt"
	"net/http"
	"time"
)

// Lists of a hub come this far apart: YurtHub keeps none that follows another
// at once.
const listGap = 2500 * time.Millisecond

// requests measures GETs of single pods and a kubelet's LIST. Each is sent to
// the API server and to the hub in turn; the CPU time is that of another block,
// which the hub has for itself.
func requests(b *bench, h *hub, f figures) error {
	if err := h.fresh(); err != nil {
		return err
	}
	pod := func(i int) string { return fmt.Sprintf("%s/%s", pods, podName(i%min(500, b.pods))) }
	list := func(int) string { return podsOf(nodeName) + "&resourceVersion=0" }
	if err := b.alternate(h, f, "get_json", pod, asJSON, b.gets, 0); err != nil {
		return err
	}
	for _, e := range encodings {
		if err := b.alternate(h, f, "list_"+e.name, list, e.accept, b.lists, listGap); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) alternate(h *hub, f figures, name string, path func(i int) string, accept string, n int, gap time.Duration) error {
	hub := h.endpoint()
	through, direct := hub.connection(time.Minute), b.api.connection(time.Minute)
	defer through.CloseIdleConnections()
	defer direct.CloseIdleConnections()
	var times [2][]float64
	for i := range n {
		time.Sleep(gap)
		for k, one := range []struct {
			endpoint
			client *http.Client
		}{{b.api.endpoint, direct}, {hub, through}} {
			began := time.Now()
			if _, err := one.ok(one.client, path(i), accept); err != nil {
				return err
			}
			// The first opens the connection.
			if i > 0 {
				times[k] = append(times[k], ms(time.Since(began)))
			}
		}
	}
	f[name+"_direct_p50_ms"], f[name+"_p50_ms"] = percentile(times[0], .5), percentile(times[1], .5)
	f[name+"_direct_p99_ms"], f[name+"_p99_ms"] = percentile(times[0], .99), percentile(times[1], .99)
	spent, err := b.alone(h, through, path, accept, n, gap)
	f[name+"_cpu_ms"] = spent
	logf("%s: %s: %.3f ms of CPU, p50 %.2f ms, direct %.2f ms", h.name, name, spent, f[name+"_p50_ms"], f[name+"_direct_p50_ms"])
	return err
}

// alone sends requests to the hub only: CPU milliseconds per request, with what
// the hub does behind its answers.
func (b *bench) alone(h *hub, client *http.Client, path func(i int) string, accept string, n int, gap time.Duration) (float64, error) {
	quiet(h.pid())
	before := cpu(h.pid())
	for i := range n {
		time.Sleep(gap)
		if _, err := h.endpoint().ok(client, path(i), accept); err != nil {
			return 0, err
		}
	}
	time.Sleep(b.settle)
	return ms(cpu(h.pid())-before) / float64(n), nil
}

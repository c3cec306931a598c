package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const restarts = 3

// restart starts the hub while the API server cannot be reached, and waits for
// the first pod.
func restart(b *bench, h *hub, f figures) error {
	if err := h.fresh(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	err := h.held(ctx, asJSON)
	if err != nil {
		stop()
		return err
	}
	quiet(h.pid())
	time.Sleep(b.settle)
	stop()
	path := pods + "/" + podName(10%b.pods)
	if err := b.restarts(h, f, "restart", path); err != nil {
		return err
	}
	client := h.endpoint().connection(time.Minute)
	defer client.CloseIdleConnections()
	pod := func(i int) string { return pods + "/" + podName(i%min(500, b.pods)) }
	if f["get_cached_cpu_ms"], err = b.alone(h, client, pod, asJSON, b.gets, 0); err != nil {
		return err
	}
	logf("%s: a GET from the cache: %.3f ms of CPU", h.name, f["get_cached_cpu_ms"])
	return nil
}

// restarts measures both ways in which an API server may be missing, and leaves
// the hub running without it.
func (b *bench) restarts(h *hub, f figures, name, path string) error {
	for _, missing := range []struct{ name, how string }{{"refused", refused}, {"black_hole", blackHole}} {
		var times []float64
		for range restarts {
			h.kill()
			if err := b.server.cut(missing.how); err != nil {
				return err
			}
			began := time.Now()
			if err := h.start(); err != nil {
				return err
			}
			if _, err := h.first(path, 2*time.Minute); err != nil {
				return err
			}
			times = append(times, time.Since(began).Seconds())
		}
		f[name+"_"+missing.name+"_s"] = percentile(times, .5)
		logf("%s: restart, %s: %.3f s", h.name, missing.name, f[name+"_"+missing.name+"_s"])
	}
	f[name+"_mb"] = residentMB(h.pid())
	return nil
}

// restartWithMany does the same with many objects, listed in pages as a
// reflector does.
func restartWithMany(b *bench, h *hub, f figures) error {
	if b.objects == 0 {
		return nil
	}
	if err := b.loadMany(); err != nil {
		return err
	}
	if err := h.fresh(); err != nil {
		return err
	}
	listed, err := h.pages(2*time.Minute, many)
	if err != nil {
		return err
	}
	quiet(h.pid())
	time.Sleep(b.settle)
	f["many_objects"] = float64(listed)
	return b.restarts(h, f, "many", fmt.Sprintf("%s/m%05d", many, b.objects/2))
}

// pages lists with pages of 500: how many objects there are.
func (h *hub) pages(timeout time.Duration, path string) (int, error) {
	client := h.endpoint().connection(timeout)
	defer client.CloseIdleConnections()
	objects, next := 0, ""
	for {
		body, err := h.endpoint().ok(client, path+"?limit=500&continue="+url.QueryEscape(next), asJSON)
		if err != nil {
			return objects, err
		}
		objects += strings.Count(string(body), `"uid":`)
		if _, next, err = listMetadata(body); err != nil || next == "" {
			return objects, err
		}
	}
}

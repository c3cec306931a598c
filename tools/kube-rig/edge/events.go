package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// A mark is a number in an annotation, by which a change is known again. It
// rises from one to the next.
const markPrefix = "mark-"

var markOf = regexp.MustCompile(markPrefix + `(\d{9})-`)

func markText(n int) string { return fmt.Sprintf("%s%09d-", markPrefix, n) }

// nextMark is greater than all before it, also than those of other hubs.
func (b *bench) nextMark() int { return int(b.marks.Add(1)) }

// arrivals are the times at which a watch has brought the marks.
type arrivals struct {
	mu sync.Mutex
	at map[int]time.Time
}

func (a *arrivals) seen(event []byte, at time.Time) {
	for _, m := range markOf.FindAllSubmatch(event, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		a.mu.Lock()
		if _, known := a.at[n]; !known {
			a.at[n] = at
		}
		a.mu.Unlock()
	}
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.at)
}

// events compares when a watch through the hub and one at the API server bring
// each change.
func events(b *bench, h *hub, f figures) error { return b.changes(h, f, "event") }

// slowEvents does the same while fsync takes long.
func slowEvents(b *bench, h *hub, f figures) error {
	h.syncDelay = b.syncDelay
	err := b.changes(h, f, "slow_event")
	f["slow_event_syncs"] = float64(h.syncs.Load())
	logf("%s: %.0f calls of fsync were slow", h.name, f["slow_event_syncs"])
	return err
}

// changes changes pods at a fixed rate.
func (b *bench) changes(h *hub, f figures, name string) error {
	if err := h.fresh(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var both [2]arrivals
	var watches []*reflector
	for i, e := range []endpoint{b.api.endpoint, h.endpoint()} {
		both[i].at = map[int]time.Time{}
		r := &reflector{client: e.connection(0), endpoint: e, path: podsOf(nodeName), agent: agent, accept: asProtobuf, seen: both[i].seen}
		watches = append(watches, r)
		go r.run(ctx)
	}
	if err := watching(watches, time.Minute); err != nil {
		return err
	}
	quiet(h.pid())
	time.Sleep(b.settle)
	cpuBefore, bytesBefore, deviceBefore := cpu(h.pid()), written(h.pid()), b.device.written()
	began := time.Now()
	for i := range b.events {
		time.Sleep(time.Until(began.Add(time.Duration(float64(i) / b.rate * float64(time.Second)))))
		if err := b.api.mark(pods+"/"+podName(i%min(200, b.pods)), markText(b.nextMark())); err != nil {
			return err
		}
	}
	for end := time.Now().Add(30 * time.Second); both[0].count() < b.events || both[1].count() < b.events; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("of %d changes, the API server has brought %d and the hub %d", b.events, both[0].count(), both[1].count())
		}
	}
	quiet(h.pid())
	time.Sleep(b.settle)
	n := float64(b.events)
	f[name+"_cpu_ms"] = ms(cpu(h.pid())-cpuBefore) / n
	f[name+"_written_kb"] = (written(h.pid()) - bytesBefore) / n / 1000
	f[name+"_device_kb"] = (b.device.written() - deviceBefore) / n / 1000
	var added []float64
	for i, at := range both[1].at {
		added = append(added, ms(at.Sub(both[0].at[i])))
	}
	f[name+"_added_p50_ms"], f[name+"_added_p99_ms"] = percentile(added, .5), percentile(added, .99)
	logf("%s: %s: %.3f ms of CPU, %.2f and %.2f ms later (p50, p99), %.1f KB written, %.1f at the device",
		h.name, name, f[name+"_cpu_ms"], f[name+"_added_p50_ms"], f[name+"_added_p99_ms"], f[name+"_written_kb"], f[name+"_device_kb"])
	return nil
}

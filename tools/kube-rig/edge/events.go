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
func (b *bench) nextMark() int {
	b.marks++
	return b.marks
}

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

// events changes pods at a fixed rate, and compares when a watch through the
// hub and one at the API server bring each change.
func events(b *bench, h *hub, f figures) error {
	if err := h.fresh(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var both [2]arrivals
	var watches []*reflector
	for i, e := range []endpoint{b.api.endpoint, h.endpoint()} {
		both[i].at = map[int]time.Time{}
		r := &reflector{endpoint: e, path: podsOf(nodeName), agent: agent, accept: asProtobuf, seen: both[i].seen}
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
	f["event_cpu_ms"] = ms(cpu(h.pid())-cpuBefore) / n
	f["event_written_bytes"] = (written(h.pid()) - bytesBefore) / n
	f["event_device_bytes"] = (b.device.written() - deviceBefore) / n
	var added []float64
	for i, at := range both[1].at {
		added = append(added, ms(at.Sub(both[0].at[i])))
	}
	f["event_added_p50_ms"], f["event_added_p99_ms"] = percentile(added, .5), percentile(added, .99)
	logf("%s: an event: %.3f ms of CPU, %.2f and %.2f ms later (p50, p99), %.0f bytes written, %.0f at the device",
		h.name, f["event_cpu_ms"], f["event_added_p50_ms"], f["event_added_p99_ms"], f["event_written_bytes"], f["event_device_bytes"])
	return nil
}

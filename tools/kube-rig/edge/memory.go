package main

import (
	"context"
	"time"
)

// memory reads an idle hub, and one through which a kubelet and a kube-proxy
// list and watch, in each encoding.
func memory(b *bench, h *hub, f figures) error {
	if err := h.fresh(); err != nil {
		return err
	}
	time.Sleep(b.memorySettle)
	f["idle_mb"], f["idle_private_mb"] = residentMB(h.pid()), privateMB(h.pid())
	for _, e := range encodings {
		name := e.name
		if err := h.fresh(); err != nil {
			return err
		}
		before := cpu(h.pid())
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		if err := h.held(ctx, e.accept); err != nil {
			return err
		}
		quiet(h.pid())
		time.Sleep(b.memorySettle)
		f["held_"+name+"_mb"] = residentMB(h.pid())
		f["held_"+name+"_private_mb"] = privateMB(h.pid())
		f["held_"+name+"_peak_mb"] = peakMB(h.pid())
		f["held_"+name+"_cpu_ms"] = ms(cpu(h.pid()) - before)
		logf("%s: %.1f MB idle, %.1f MB with %s", h.name, f["idle_mb"], f["held_"+name+"_mb"], name)
		stop()
	}
	return nil
}

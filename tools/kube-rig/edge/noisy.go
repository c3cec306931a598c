package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	noisyConnections = 50
	noisyPerSecond   = 5000
)

// noisy measures a kubelet's GETs beside a pod that asks 5,000 times a second
// for a list that the hub has: it is the hub that is busy, not the API server.
func noisy(b *bench, h *hub, f figures) error {
	if err := h.fresh(); err != nil {
		return err
	}
	const path = "/api/v1/namespaces/none/services?resourceVersion=0"
	pod := h.endpoint()
	pod.token = b.api.token
	if _, err := pod.ok(pod.connection(time.Minute), path, asJSON); err != nil {
		return err
	}
	quietly, err := b.asKubelet(h)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var answered, refused, failed atomic.Int64
	var asking sync.WaitGroup
	for range noisyConnections {
		asking.Go(func() {
			client := pod.connection(time.Minute)
			defer client.CloseIdleConnections()
			ticks := time.NewTicker(time.Second * noisyConnections / noisyPerSecond)
			defer ticks.Stop()
			for ctx.Err() == nil {
				<-ticks.C
				switch status, _, err := pod.get(client, path, asJSON); {
				case err != nil:
					failed.Add(1)
				case status == http.StatusOK:
					answered.Add(1)
				case status == http.StatusTooManyRequests:
					refused.Add(1)
				default:
					failed.Add(1)
				}
			}
		})
	}
	// Its connections are open.
	for end := time.Now().Add(time.Minute); answered.Load()+refused.Load() < noisyPerSecond/2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("of a pod %d requests were answered, and %d refused", answered.Load(), refused.Load())
		}
	}
	began, before, spent := time.Now(), answered.Load()+refused.Load(), cpu(h.pid())
	times, err := b.asKubelet(h)
	asked, took := float64(answered.Load()+refused.Load()-before), time.Since(began)
	rate := asked / took.Seconds()
	spent = cpu(h.pid()) - spent
	cancel()
	asking.Wait()
	if err != nil {
		return err
	}
	if failed.Load() > 0 {
		return fmt.Errorf("%d requests of the pod failed", failed.Load())
	}
	f["noisy_rate"], f["noisy_alone_p99_ms"] = rate, percentile(quietly, .99)
	f["noisy_p50_ms"], f["noisy_p99_ms"] = percentile(times, .5), percentile(times, .99)
	logf("%s: kubelet beside %.0f requests per second (%d refused): p50 %.2f ms, p99 %.2f ms; alone p99 %.2f ms; the hub had %.2f of a core, %.2f ms for each request of the pod",
		h.name, rate, refused.Load(), f["noisy_p50_ms"], f["noisy_p99_ms"], f["noisy_alone_p99_ms"], spent.Seconds()/took.Seconds(), ms(spent)/asked)
	return nil
}

// asKubelet is how long GETs of single pods take, in milliseconds.
func (b *bench) asKubelet(h *hub) ([]float64, error) {
	client := h.endpoint().connection(time.Minute)
	defer client.CloseIdleConnections()
	var times []float64
	for i := range b.gets {
		time.Sleep(time.Millisecond)
		began := time.Now()
		if _, err := h.endpoint().ok(client, fmt.Sprintf("%s/%s", pods, podName(i%min(500, b.pods))), asJSON); err != nil {
			return nil, err
		}
		times = append(times, ms(time.Since(began)))
	}
	return times, nil
}

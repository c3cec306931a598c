package main

import (
	"math"
	"math/rand/v2"
	"sort"
	"sync"
	"time"
)

// load is an open-loop generator: requests are due at fixed times, whether or
// not earlier ones have been answered, and latency counts from the due time.
type load struct {
	rate    int
	begin   time.Time
	stop    chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	latency []float64
	status  map[string]int
	wrong   int
	retried int
	skipped int
}

type loadResult struct {
	Rate    int                `json:"rate"`
	Seconds float64            `json:"seconds"`
	Sent    int                `json:"sent"`
	Failed  int                `json:"failed"`
	Status  map[string]int     `json:"status"`
	Wrong   int                `json:"wrong_host"`
	Retried int                `json:"retried_on_new_connection"`
	Skipped int                `json:"skipped"` // all connections were busy for seconds
	Latency map[string]float64 `json:"latency_ms"`
}

// startLoad sends rate requests per second; host names the one for request i.
func startLoad(address string, rate, connections int, host func(i int) string) *load {
	l := &load{rate: rate, begin: time.Now(), stop: make(chan struct{}), status: map[string]int{}}
	if rate <= 0 {
		return l
	}
	type job struct {
		i   int
		due time.Time
	}
	jobs := make(chan job, 4*rate)
	for range connections {
		l.wg.Go(func() {
			c := &client{address: address, timeout: 5 * time.Second}
			defer c.close()
			for j := range jobs {
				h := host(j.i)
				l.count(c.get(h), h, time.Since(j.due))
			}
		})
	}
	l.wg.Go(func() {
		defer close(jobs)
		due := time.Now()
		for i := 0; ; i++ {
			due = due.Add(time.Second / time.Duration(rate))
			if d := time.Until(due); d > 200*time.Microsecond {
				time.Sleep(d)
			}
			select {
			case <-l.stop:
				return
			case jobs <- job{i, due}:
			default:
				l.mu.Lock()
				l.skipped++
				l.mu.Unlock()
			}
		}
	})
	return l
}

func (l *load) count(a answer, host string, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status[a.key()]++
	l.latency = append(l.latency, ms(took))
	if a.status == 200 && a.host != host {
		l.wrong++
	}
	if a.retried {
		l.retried++
	}
}

// finish stops the load; nil if there was none.
func (l *load) finish() *loadResult {
	if l.rate <= 0 {
		return nil
	}
	close(l.stop)
	l.wg.Wait()
	sent := len(l.latency)
	return &loadResult{
		Rate: l.rate, Seconds: time.Since(l.begin).Seconds(), Sent: sent, Failed: sent - l.status["200"] + l.wrong,
		Status: l.status, Wrong: l.wrong, Retried: l.retried, Skipped: l.skipped, Latency: quantiles(l.latency),
	}
}

// anyRoute spreads a load over the routes that exist.
func (o *options) anyRoute(i int) string {
	if o.routes > 0 && i%2 == 0 {
		return hostOf(rand.IntN(o.routes))
	}
	return steady(i)
}

func quantiles(values []float64) map[string]float64 {
	if len(values) == 0 {
		return nil
	}
	s := append([]float64{}, values...)
	sort.Float64s(s)
	q := func(p float64) float64 { return s[int(math.Ceil(p*float64(len(s))))-1] }
	return map[string]float64{"n": float64(len(s)), "p50": q(0.5), "p99": q(0.99), "max": s[len(s)-1]}
}

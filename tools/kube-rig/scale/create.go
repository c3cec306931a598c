package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	creators = 16
	followed = 200 // routes whose first answer is waited for, evenly spread
	sweepers = 2
)

// creation is one run of `scale create`.
type creation struct {
	o     *options
	k     *api
	begin time.Time
	// Routes that are followed. Following every route would measure the poller:
	// a gateway may need milliseconds for the first request to a route.
	index   []int
	created []atomic.Int64 // by route, nanoseconds since begin; 0: not yet
	done    []atomic.Bool  // by followed route
	mu      sync.Mutex
	lag     []float64 // from the creation to the first answer, ms
	calls   []float64 // of the API, ms
	bad     map[string]int
}

// create creates n routes at a rate. Meanwhile requests go to routes that have
// worked for a second: a failure of one of them is an error.
func create(o *options, fs *flag.FlagSet, args []string) error {
	rate := fs.Int("rate", 1000, "creations per second, if the API is as fast")
	rps := fs.Int("load", 300, "requests per second to routes that already work, meanwhile")
	limit := fs.Duration("limit", 5*time.Minute, "give up after this time")
	k, err := o.connect(fs, args)
	if err != nil || o.routes == 0 {
		return err
	}
	m := min(followed, o.routes)
	c := &creation{o: o, k: k, created: make([]atomic.Int64, o.routes), done: make([]atomic.Bool, m), bad: map[string]int{}}
	for j := range m {
		c.index = append(c.index, (j+1)*o.routes/m-1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	var working atomic.Int64
	l := startLoad(o.address, *rps, 8, func(i int) string {
		if w := working.Load(); w > 0 && i%2 == 0 {
			return hostOf(c.index[rand.IntN(int(w))])
		}
		return steady(i)
	})
	account := o.processes.account()
	c.begin = time.Now()
	statuses := make(chan time.Duration, 1)
	go func() { statuses <- c.followStatus(ctx) }()
	created := make(chan time.Duration, 1)
	go func() { created <- c.createAll(*rate) }()
	answered := c.sweep(ctx, &working)
	createdAfter := <-created
	load := l.finish()
	cpuToAnswer := account()
	account = o.processes.account()
	bad := c.askAll()
	statusAfter := <-statuses
	logf("%d routes created after %.1f s; all answer after %.1f s, all have a status after %.1f s; bad answers then: %v",
		o.routes, createdAfter.Seconds(), answered.Seconds(), statusAfter.Seconds(), bad)
	return o.write(map[string]any{
		"n": o.routes, "rate": *rate, "created_s": createdAfter.Seconds(), "all_answer_s": answered.Seconds(),
		"all_status_s": statusAfter.Seconds(), "lag_ms": quantiles(c.lag), "api_ms": quantiles(c.calls), "answers_before": c.bad,
		"bad_when_all_answer": bad, "load": load, "cpu_s": cpuToAnswer, "cpu_after_s": account(),
	})
}

func (c *creation) createAll(rate int) time.Duration {
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range creators {
		wg.Go(func() {
			for i := range jobs {
				r := route{name: fmt.Sprintf("h%d", i), service: "a"}
				for {
					begin := time.Now()
					err := c.k.do("POST", routesPath, r.object(), nil)
					if err == nil || hasCode(err, 409) {
						c.created[i].Store(int64(begin.Sub(c.begin)))
						c.mu.Lock()
						c.calls = append(c.calls, ms(time.Since(begin)))
						c.mu.Unlock()
						break
					}
					logf("creating %s: %v", r.name, err)
					time.Sleep(100 * time.Millisecond)
				}
			}
		})
	}
	due := time.Now()
	for i := range c.o.routes {
		jobs <- i
		due = due.Add(time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
	}
	close(jobs)
	wg.Wait()
	return time.Since(c.begin)
}

// followStatus returns when the last route was Accepted.
func (c *creation) followStatus(ctx context.Context) time.Duration {
	seen := map[string]bool{}
	var last time.Duration
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for ctx.Err() == nil {
		err := c.k.watch(ctx, routesPath+"?watch=true&resourceVersion=0", func(object json.RawMessage) {
			name, ok := accepted(object)
			var i int
			if _, err := fmt.Sscanf(name, "h%d", &i); err != nil || !ok || seen[name] {
				return
			}
			seen[name] = true
			last = time.Since(c.begin)
			if len(seen) == c.o.routes {
				cancel()
			}
		})
		if err != nil {
			logf("watch: %v", err)
			time.Sleep(100 * time.Millisecond)
		}
	}
	if len(seen) < c.o.routes {
		logf("only %d of %d routes have a status", len(seen), c.o.routes)
	}
	return last
}

// accepted reports whether a route's status says that a parent accepted it.
func accepted(object json.RawMessage) (name string, ok bool) {
	var r struct {
		Metadata struct{ Name string }
		Status   struct {
			Parents []struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if json.Unmarshal(object, &r) != nil {
		return "", false
	}
	for _, p := range r.Status.Parents {
		for _, condition := range p.Conditions {
			ok = ok || condition.Type == "Accepted" && condition.Status == "True"
		}
	}
	return r.Metadata.Name, ok
}

// sweep asks for the followed routes until each has answered, and returns when
// the last one did. One sweeper takes the even ones, one the odd ones; each
// asks for its oldest that does not answer yet and, every other time, for some
// other one.
func (c *creation) sweep(ctx context.Context, working *atomic.Int64) time.Duration {
	var wg sync.WaitGroup
	var oldest [sweepers]atomic.Int64
	swept := make(chan struct{})
	go func() {
		// What has worked for a second is asked by the load.
		for before := int64(0); ; {
			working.Store(before)
			before = min(oldest[0].Load(), oldest[1].Load())
			select {
			case <-swept:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	for s := range sweepers {
		oldest[s].Store(int64(s))
		wg.Go(func() {
			p := newPoller(c.o)
			for turn, first := 0, s; ctx.Err() == nil; turn++ {
				for first < len(c.index) && c.done[first].Load() {
					first += sweepers
				}
				oldest[s].Store(int64(min(first, len(c.index))))
				if first >= len(c.index) {
					return
				}
				j := first
				if turn%2 == 1 {
					j += sweepers * rand.IntN((len(c.index)-1-first)/sweepers+1)
				}
				c.ask(p, j)
			}
		})
	}
	wg.Wait()
	close(swept)
	return time.Since(c.begin)
}

// ask asks once for a followed route.
func (c *creation) ask(p *poller, j int) {
	created := c.created[c.index[j]].Load()
	if created == 0 || c.done[j].Load() {
		time.Sleep(time.Millisecond)
		return
	}
	host := hostOf(c.index[j])
	a := p.get(host)
	if !a.okFor(host) {
		c.mu.Lock()
		c.bad[a.key()]++
		c.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	} else if c.done[j].CompareAndSwap(false, true) {
		c.mu.Lock()
		c.lag = append(c.lag, ms(time.Since(c.begin)-time.Duration(created)))
		c.mu.Unlock()
	}
}

// askAll asks every route once and counts the bad answers.
func (c *creation) askAll() map[string]int {
	bad := map[string]int{}
	p := newPoller(c.o)
	for i := range c.o.routes {
		if a := p.get(hostOf(i)); !a.okFor(hostOf(i)) {
			bad[a.key()]++
		}
	}
	return bad
}

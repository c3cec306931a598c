package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// How long good answers must go on until a change counts as live.
const hold = 60 * time.Millisecond

// summary is about all changes of one kind.
type summary struct {
	Settled  map[string]float64 `json:"settled_ms"` // from before the API call; from then on only good answers
	First    map[string]float64 `json:"first_ms"`
	API      map[string]float64 `json:"api_ms"`
	Flaps    int                `json:"flaps"` // bad answers after a first good one
	Timeouts int                `json:"timeouts"`
	Seen     map[string]int     `json:"seen"` // answers before it settled
}

type changes struct {
	o       *options
	k       *api
	poller  *poller
	samples map[string][]sample
}

type sample struct {
	api float64
	visible
}

// changeFlags starts what `change` and `move` share.
func changeFlags(o *options, fs *flag.FlagSet, args []string) (c *changes, count, rps int, err error) {
	fs.IntVar(&count, "count", 30, "changes of each kind")
	fs.IntVar(&rps, "load", 0, "requests per second on existing routes, meanwhile")
	k, err := o.connect(fs, args)
	if err != nil {
		return nil, 0, 0, err
	}
	return &changes{o: o, k: k, poller: newPoller(o), samples: map[string][]sample{}}, count, rps, nil
}

// pause waits between two changes, so that they do not fall into the rhythm
// of anything else.
func pause() {
	time.Sleep(50*time.Millisecond + time.Duration(rand.Int64N(int64(400*time.Millisecond))))
}

// askOnly asks as often as the changes did, without a change. What the
// gateway uses for it is not due to the changes.
func (c *changes) askOnly(times, requests int, host string) {
	for i := range times {
		pause()
		for range (requests*(i+1))/times - (requests*i)/times {
			c.poller.get(host)
			time.Sleep(pollPeriod)
		}
	}
}

// make makes one change after a random pause, and waits until it is live.
func (c *changes) make(kind, method, path string, body any, host string, good func(answer) bool) error {
	pause()
	begin := time.Now()
	if err := c.k.do(method, path, body, nil); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	s := sample{api: ms(time.Since(begin))}
	s.visible = c.poller.until(begin, host, time.Minute, hold, good)
	c.samples[kind] = append(c.samples[kind], s)
	return nil
}

// during makes changes beside a load, and writes the result.
func (c *changes) during(rps int, host func(i int) string, makeAll func() error) error {
	c.poller.warm(host(0))
	l := startLoad(c.o.address, rps, 16, host)
	if rps > 0 {
		time.Sleep(time.Second)
	}
	account, before := c.o.processes.account(), c.poller.asked
	if err := makeAll(); err != nil {
		return err
	}
	cpu, load, asked := account(), l.finish(), c.poller.asked-before
	total, kinds := 0, map[string]summary{}
	for kind, samples := range c.samples {
		var settled, first, api []float64
		s := summary{Seen: map[string]int{}}
		for _, x := range samples {
			settled, first, api = append(settled, x.Settled), append(first, x.First), append(api, x.api)
			s.Flaps += x.Flaps
			if x.Timeout {
				s.Timeouts++
			}
			for status, n := range x.Seen {
				s.Seen[status] += n
			}
		}
		s.Settled, s.First, s.API = quantiles(settled), quantiles(first), quantiles(api)
		logf("%-8s n=%.0f settled p50 %.1f max %.1f ms, seen before %v, flaps %d", kind, s.Settled["n"], s.Settled["p50"], s.Settled["max"], s.Seen, s.Flaps)
		total += len(samples)
		kinds[kind] = s
	}
	if load != nil {
		logf("load: sent %d, failed %d %v, p99 %.1f ms", load.Sent, load.Failed, load.Status, load.Latency["p99"])
	}
	account = c.o.processes.account()
	if rps == 0 {
		c.askOnly(total, asked, host(0))
	}
	return c.o.write(map[string]any{"n": c.o.routes, "changes": total, "kinds": kinds, "load": load, "requests": asked, "cpu_s": cpu, "requests_cpu_s": account()})
}

// change creates a route, sets a response header by a filter, changes the
// backend and deletes the route, again and again.
func change(o *options, fs *flag.FlagSet, args []string) error {
	c, count, rps, err := changeFlags(o, fs, args)
	if err != nil {
		return err
	}
	round := func(i int) error {
		r := route{name: fmt.Sprintf("x%d-%d", os.Getpid(), i), service: "a"}
		patch := func() any { return map[string]any{"spec": map[string]any{"rules": r.rules()}} }
		works := func(a answer) bool { return a.okFor(r.host()) && a.service == r.service && a.revision == r.revision }
		if err := c.make("create", "POST", routesPath, r.object(), r.host(), works); err != nil {
			return err
		}
		r.revision = fmt.Sprintf("r%d", i)
		if err := c.make("filter", "PATCH", r.path(), patch(), r.host(), works); err != nil {
			return err
		}
		r.service = "b"
		if err := c.make("backend", "PATCH", r.path(), patch(), r.host(), works); err != nil {
			return err
		}
		return c.make("delete", "DELETE", r.path(), nil, r.host(), func(a answer) bool { return a.status == 404 })
	}
	return c.during(rps, o.anyRoute, func() error {
		for i := range count {
			if err := round(i); err != nil {
				return err
			}
		}
		return nil
	})
}

// move points the Service "moving" at one pod and at another in turn.
func move(o *options, fs *flag.FlagSet, args []string) error {
	c, count, rps, err := changeFlags(o, fs, args)
	if err != nil {
		return err
	}
	var pods [2]pod
	for i, app := range []string{"a", "b"} {
		if pods[i], err = c.k.readyPod(app); err != nil {
			return err
		}
	}
	const host = "move.example.test"
	return c.during(rps, func(int) string { return host }, func() error {
		for i := range count {
			to := pods[(i+1)%2]
			moved := func(a answer) bool { return a.okFor(host) && a.pod == to.name }
			if err := c.make("move", "APPLY", slicePath, sliceObject(to.ip), host, moved); err != nil {
				return err
			}
		}
		return c.k.do("APPLY", slicePath, sliceObject(pods[0].ip), nil)
	})
}

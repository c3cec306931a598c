package main

import (
	"flag"
	"fmt"
	"syscall"
	"time"
)

// restart kills a process, which something else starts again, and waits until
// a route answers, and then until every route does.
func restart(o *options, fs *flag.FlagSet, args []string) error {
	kill := fs.String("kill", "", "the name of a -process; it gets SIGKILL")
	limit := fs.Duration("limit", 3*time.Minute, "give up after this time")
	if _, err := o.connect(fs, args); err != nil {
		return err
	}
	p := newPoller(o)
	p.warm(steady(0))
	for _, c := range p.clients {
		c.timeout = 500 * time.Millisecond
	}
	pids := o.processes.find()[*kill]
	if len(pids) == 0 {
		return fmt.Errorf("no process matches %q", *kill)
	}
	account := o.processes.account()
	begin := time.Now()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	first := p.until(begin, steady(0), *limit, 0, func(a answer) bool { return a.okFor(steady(0)) })
	all := time.Duration(first.First * float64(time.Millisecond))
	for i := 0; i < o.routes; {
		if p.get(hostOf(i)).okFor(hostOf(i)) {
			i++
			continue
		}
		all = time.Since(begin)
		if all > *limit {
			return fmt.Errorf("%s does not answer after %s", hostOf(i), all)
		}
		time.Sleep(3 * time.Millisecond)
	}
	logf("first answer %.2f s after SIGKILL; the last bad answer of %d routes after %.2f s", first.First/1000, o.routes, all.Seconds())
	return o.write(map[string]any{
		"n": o.routes, "first_answer_s": first.First / 1000, "all_answer_s": all.Seconds(), "seen": first.Seen, "cpu_s": account(),
	})
}

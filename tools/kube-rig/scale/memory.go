package main

import (
	"flag"
	"time"
)

type reading struct {
	Processes int     `json:"processes"`
	PSS       float64 `json:"pss_mib"`
	RSS       float64 `json:"rss_mib"`
	PeakRSS   float64 `json:"peak_rss_mib"`
}

// memory waits until every process used less than 5 % of a core in each of
// five seconds, for 90 s at most.
func memory(o *options, fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	used := func() map[string]float64 {
		sum := map[string]float64{}
		for name, pids := range o.processes.find() {
			for _, pid := range pids {
				sum[name] += cpuSeconds(pid)
			}
		}
		return sum
	}
	before := used()
	for quiet, end := 0, time.Now().Add(90*time.Second); quiet < 5 && time.Now().Before(end); {
		time.Sleep(time.Second)
		now := used()
		quiet++
		for name := range now {
			if now[name]-before[name] > 0.05 {
				quiet = 0
			}
		}
		before = now
	}
	result := map[string]reading{}
	for name, pids := range o.processes.find() {
		r := reading{Processes: len(pids)}
		for _, pid := range pids {
			r.PSS += mib(pid, "smaps_rollup", "Pss")
			r.RSS += mib(pid, "status", "VmRSS")
			r.PeakRSS += mib(pid, "status", "VmHWM")
		}
		logf("memory of %s: PSS %.1f MiB, RSS %.1f MiB, peak %.1f MiB", name, r.PSS, r.RSS, r.PeakRSS)
		result[name] = r
	}
	return o.write(result)
}

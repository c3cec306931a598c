package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// processSpecs names the processes to account for.
type processSpecs []processSpec

type processSpec struct {
	name string
	re   *regexp.Regexp
}

func (p *processSpecs) String() string { return "" }
func (p *processSpecs) Set(s string) error {
	name, pattern, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("%q is not NAME=REGEX", s)
	}
	re, err := regexp.Compile(pattern)
	*p = append(*p, processSpec{name, re})
	return err
}

// find returns the ids of the processes by name.
func (p processSpecs) find() map[string][]int {
	found := map[string][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		command := strings.ReplaceAll(string(line), "\x00", " ")
		for _, s := range p {
			if s.re.MatchString(command) {
				found[s.name] = append(found[s.name], pid)
			}
		}
	}
	return found
}

// cpuSeconds is the CPU time of a process so far, in ticks of 10 ms.
func cpuSeconds(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // [0] is field 3
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// mib reads a line "Key:  N kB".
func mib(pid int, file, key string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n / 1024
		}
	}
	return 0
}

// account adds up the CPU seconds of the processes until its stop function is
// called, also of those that start meanwhile.
func (p processSpecs) account() func() map[string]float64 {
	used, last := map[string]float64{}, map[int]float64{}
	var mu sync.Mutex
	sample := func(first bool) {
		mu.Lock()
		defer mu.Unlock()
		for name, pids := range p.find() {
			for _, pid := range pids {
				now := cpuSeconds(pid)
				before, known := last[pid]
				if known || !first {
					used[name] += max(0, now-before)
				}
				last[pid] = now
			}
		}
	}
	sample(true)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Millisecond):
				sample(false)
			}
		}
	}()
	return func() map[string]float64 {
		close(stop)
		<-stopped
		sample(false)
		return used
	}
}

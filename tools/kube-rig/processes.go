package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// processes are the programs of the rig. One that ends is started again, so
// that a test may kill it. Their process ids are in <dir>/processes.json.
type processes struct {
	rig *rig

	mu     sync.Mutex
	pids   map[string]int
	order  []string
	ending bool
	ended  sync.WaitGroup
}

// start starts a program whose output goes to <dir>/logs/<name>.log. It dies
// with the rig, whatever ends that.
func (ps *processes) start(name string, argv ...string) error {
	log, err := os.OpenFile(ps.rig.path("logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	launch := func() (*exec.Cmd, error) {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		if ps.ending {
			return nil, nil
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = ps.rig.dir
		cmd.Stdout, cmd.Stderr = log, log
		// A session of its own: Ctrl-C ends the rig, which ends it in order.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		ps.pids[name] = cmd.Process.Pid
		return cmd, ps.write()
	}
	cmd, err := launch()
	if err != nil {
		return err
	}
	ps.order = append(ps.order, name)
	ps.ended.Add(1)
	go func() {
		defer ps.ended.Done()
		defer log.Close()
		for cmd != nil {
			_ = cmd.Wait()
			time.Sleep(200 * time.Millisecond)
			if cmd, err = launch(); err != nil {
				fmt.Fprintf(os.Stderr, "kube-rig: %s: %v\n", name, err)
				return
			}
		}
	}()
	return nil
}

func (ps *processes) write() error {
	b, err := json.Marshal(ps.pids)
	if err != nil {
		return err
	}
	part := ps.rig.path("processes.json.part")
	if err := os.WriteFile(part, b, 0o644); err != nil {
		return err
	}
	return os.Rename(part, ps.rig.path("processes.json"))
}

// end stops the programs, the last started first: the kubelet stops the pods.
func (ps *processes) end() {
	ps.mu.Lock()
	ps.ending = true
	ps.mu.Unlock()
	for i := len(ps.order) - 1; i >= 0; i-- {
		pid := ps.pids[ps.order[i]]
		_ = syscall.Kill(pid, syscall.SIGCONT)
		if ps.order[i] != "kubelet" {
			// Nothing of it is needed any more.
			_ = syscall.Kill(pid, syscall.SIGKILL)
			continue
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && syscall.Kill(pid, 0) == nil; {
			time.Sleep(20 * time.Millisecond)
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	ps.ended.Wait()
}

// endOthers kills what else runs in this network namespace: gateways under
// test that nobody stopped.
func endOthers() {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return
	}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(link))))
		if ns, err := os.Readlink(link); err == nil && ns == own && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

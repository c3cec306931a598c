package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// server is the API server's process, and the link of hubs to it.
type server struct {
	state string
}

func (s server) pid() int {
	text, _ := os.ReadFile(filepath.Join(s.state, "processes.json"))
	pids := map[string]int{}
	_ = json.Unmarshal(text, &pids)
	return pids["kube-apiserver"]
}

// stop makes the API server stand still: connections stay open, nothing
// answers.
func (s server) stop() error { return syscall.Kill(s.pid(), syscall.SIGSTOP) }

const (
	nftTable  = "edge-bench"
	refused   = "ip daddr " + hubServerHost + " tcp dport 6443 reject with tcp reset"
	blackHole = "ip daddr " + hubServerHost + " tcp dport 6443 drop; ip saddr " + hubServerHost + " tcp sport 6443 drop"
)

// cut adds a rule for packets between hubs and the API server.
func (s server) cut(how string) error {
	s.heal()
	return nft(fmt.Sprintf("table ip %s { chain cut { type filter hook output priority 0; %s; }; }", nftTable, how))
}

func (s server) heal() { _ = nft("delete table ip " + nftTable) }

// restore undoes stop and cut.
func (s server) restore() {
	_ = syscall.Kill(s.pid(), syscall.SIGCONT)
	s.heal()
}

// count counts the bytes that the API server sends to hubs from now on.
func (s server) count() error {
	_ = nft("delete table ip edge-bench-count")
	return nft(fmt.Sprintf("table ip edge-bench-count { counter sent { }; chain count { type filter hook output priority -1; ip saddr %s tcp sport 6443 counter name sent; }; }", hubServerHost))
}

var sentBytes = regexp.MustCompile(`bytes (\d+)`)

func (s server) sent() float64 {
	text, _ := exec.Command("nft", "list", "counter", "ip", "edge-bench-count", "sent").Output()
	if m := sentBytes.FindSubmatch(text); m != nil {
		n, _ := strconv.ParseFloat(string(m[1]), 64)
		return n
	}
	return 0
}

// watches is how many watches the API server serves.
func (s server) watches(k *api) (float64, error) {
	text, err := k.ok(k.client, "/metrics", "text/plain")
	var sum float64
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "apiserver_longrunning_requests{") && strings.Contains(line, `verb="WATCH"`) {
			n, _ := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			sum += n
		}
	}
	return sum, err
}

func nft(rules string) error {
	if out, err := exec.Command("nft", rules).CombinedOutput(); err != nil {
		return fmt.Errorf("nft %s: %w: %s", rules, err, out)
	}
	return nil
}

package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	firstAddress = "10.245.32.1"
	hubPort      = "10261"
)

const weirName = "Weir"

// kind is an implementation.
type kind struct {
	name, binary string
	command      func(h *hub) (*exec.Cmd, error)
	// What comes after the arguments of command.
	arguments func(h *hub) []string
}

// hub is one process of it, with an address of its own.
type hub struct {
	kind
	bench   *bench
	node    string
	address string
	process *exec.Cmd

	// How long its fsync takes, and how often it was called.
	syncDelay time.Duration
	syncs     atomic.Int64
}

func (h *hub) dir() string        { return filepath.Join(h.bench.device.dir, h.name, h.address) }
func (h *hub) endpoint() endpoint { return endpoint{base: "http://" + h.address + ":" + hubPort} }
func (h *hub) pid() int           { return h.process.Process.Pid }
func (h *hub) pki(file string) string {
	return filepath.Join(h.bench.server.state, "pki", file)
}

// start starts the process; see ready.
func (h *hub) start() error {
	if err := os.MkdirAll(h.dir(), 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(h.pki(h.node + ".crt")); err != nil {
		if err := h.bench.certify(h.node, h.address); err != nil {
			return err
		}
	}
	command, err := h.command(h)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(h.bench.server.state, "logs", h.name+"-"+h.address+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if h.arguments != nil {
		command.Args = append(command.Args, h.arguments(h)...)
	}
	command.Stdout, command.Stderr = log, log
	// It ends with this program, however that ends.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	h.process = command
	if h.syncDelay > 0 {
		return startSlowly(command, h.syncDelay, &h.syncs)
	}
	return command.Start()
}

// fresh starts a hub that has kept nothing, and waits until it passes requests
// on.
func (h *hub) fresh() error {
	h.kill()
	if err := os.RemoveAll(h.dir()); err != nil {
		return err
	}
	if err := h.start(); err != nil {
		return err
	}
	return h.ready()
}

func (h *hub) ready() error {
	_, err := h.first("/api/v1/nodes/"+nodeName, time.Minute)
	return err
}

// first asks until the answer is 200; the time from now until then.
func (h *hub) first(path string, limit time.Duration) (time.Duration, error) {
	began := time.Now()
	last := "no connection"
	for time.Since(began) < limit {
		client := h.endpoint().connection(limit)
		status, body, err := h.endpoint().get(client, path, asJSON)
		client.CloseIdleConnections()
		if err == nil && status == http.StatusOK {
			return time.Since(began), nil
		}
		if err == nil {
			last = fmt.Sprintf("%d %.200s", status, body)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return 0, fmt.Errorf("%s %s: %s for %s", h.name, path, last, limit)
}

func (h *hub) kill() {
	if h.process != nil && h.process.Process != nil {
		_ = h.process.Process.Kill()
		_ = h.process.Wait()
	}
	h.process = nil
}

func startWeir(h *hub) (*exec.Cmd, error) {
	return exec.Command(h.binary, "edge", "--server-addr", hubServer, "--node-name", h.node,
		"--certificate-authority", h.pki("ca.crt"), "--client-certificate", h.pki(h.node+".crt"), "--client-key", h.pki(h.node+".key"),
		"--bind-proxy-address", h.address, "--proxy-port", hubPort, "--disk-cache-path", filepath.Join(h.dir(), "cache")), nil
}

// startYurtHub gives YurtHub its certificates, which it would ask the API
// server for otherwise.
func startYurtHub(h *hub) (*exec.Cmd, error) {
	root := filepath.Join(h.dir(), "root")
	conf := filepath.Join(root, "yurthub.conf")
	client := filepath.Join(root, "pki", "yurthub-current.pem")
	command := exec.Command(h.binary, "--v=2", "--server-addr="+hubServer, "--node-name="+h.node, "--nodepool-name="+nodePool, "--working-mode=edge",
		"--enable-dummy-if=false", "--enable-iptables=false", "--enable-coordinator=false", "--bootstrap-mode=token",
		"--bootstrap-file="+conf, "--root-dir="+root, "--disk-cache-path="+filepath.Join(h.dir(), "cache")+"/",
		"--bind-address="+h.address, "--bind-proxy-address="+h.address, "--proxy-port="+hubPort)
	if _, err := os.Stat(conf); err == nil {
		return command, nil
	}
	if err := os.MkdirAll(filepath.Join(root, "pki"), 0o755); err != nil {
		return nil, err
	}
	read := func(names ...string) (all []byte) {
		for _, name := range names {
			part, _ := os.ReadFile(h.pki(name))
			all = append(all, part...)
		}
		return all
	}
	ca := read("ca.crt")
	kubeconfig := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: default-cluster, cluster: {server: "%s", certificate-authority-data: %s}}]
users: [{name: default-auth, user: {client-certificate: %s, client-key: %s}}]
contexts: [{name: default-context, context: {cluster: default-cluster, user: default-auth, namespace: default}}]
current-context: default-context
`, hubServer, base64.StdEncoding.EncodeToString(ca), client, client)
	for path, content := range map[string][]byte{
		client: read(h.node+".crt", h.node+".key"), filepath.Join(root, "pki", "yurthub-server-current.pem"): read("edge.crt", "edge.key"),
		filepath.Join(root, "pki", "ca.crt"): ca, conf: []byte(kubeconfig),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
	}
	return command, nil
}

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A container is one local process in the pod's network namespace, with its
// own root directory (see contain.go).
type container struct {
	p    *pod
	spec *corev1.Container
	init bool

	mu       sync.Mutex
	state    corev1.ContainerState
	last     corev1.ContainerState
	pid      int
	restarts int32
	ready    bool
}

func newContainer(p *pod, spec *corev1.Container, init bool) *container {
	return &container{p: p, spec: spec, init: init}
}

// sidecar reports whether this is an init container that keeps running.
func (c *container) sidecar() bool {
	return c.spec.RestartPolicy != nil && *c.spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (c *container) logFile() string { return c.p.dir(c.spec.Name + ".log") }

func (c *container) status(podWaiting string) corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	started := c.state.Running != nil
	cs := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image,
		State: c.state, LastTerminationState: c.last,
		RestartCount: c.restarts, Ready: c.ready, Started: &started,
	}
	if c.pid != 0 {
		cs.ContainerID = fmt.Sprintf("kube-rig://%d", c.pid)
	}
	if c.state == (corev1.ContainerState{}) {
		cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating", Message: podWaiting}
	}
	return cs
}

func (c *container) set(change func()) {
	c.mu.Lock()
	change()
	c.mu.Unlock()
	c.p.changed()
}

// runToEnd runs an init container until it succeeds. It reports false when the
// pod ended first.
func (c *container) runToEnd() bool {
	for {
		if code, err := c.runOnce(); err == nil && code == 0 {
			c.set(func() { c.ready = true })
			return true
		}
		if c.p.obj.Spec.RestartPolicy == corev1.RestartPolicyNever || !sleep(c.p.ctx, time.Second) {
			return false
		}
		c.set(func() { c.restarts++ })
	}
}

// keepRunning runs a container and restarts it as the pod's policy says.
func (c *container) keepRunning() {
	for wait := time.Second; c.p.ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
		begin := time.Now()
		code, err := c.runOnce()
		policy := c.p.obj.Spec.RestartPolicy
		if c.p.ctx.Err() != nil ||
			err == nil && policy == corev1.RestartPolicyNever ||
			err == nil && policy == corev1.RestartPolicyOnFailure && code == 0 {
			return
		}
		if time.Since(begin) > 30*time.Second {
			wait = time.Second
		}
		if !sleep(c.p.ctx, wait) {
			return
		}
		c.set(func() { c.restarts++ })
	}
}

// runOnce starts the process, follows its readiness and returns its exit code.
func (c *container) runOnce() (int, error) {
	fail := func(reason string, err error) (int, error) {
		c.set(func() {
			c.state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: err.Error()}}
		})
		return 0, err
	}
	img := c.p.k.image(c.spec.Image)
	if img == nil {
		return fail("ErrImageNotMapped", fmt.Errorf("no local program stands for image %s", c.spec.Image))
	}
	spec, err := c.containSpec(img)
	if err != nil {
		return fail("CreateContainerConfigError", err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return fail("CreateContainerError", err)
	}
	file := c.p.dir(c.spec.Name + ".json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return fail("CreateContainerError", err)
	}
	out, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fail("CreateContainerError", err)
	}
	defer out.Close()
	self, err := os.Executable()
	if err != nil {
		return fail("CreateContainerError", err)
	}
	cmd := exec.Command(self, "contain", file)
	w := &logWriter{w: out}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
		Setsid:     true, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fail("CreateContainerError", err)
	}
	started := metav1.Now()
	pidFile := c.p.dir(c.spec.Name + ".pid")
	_ = os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
	defer os.Remove(pidFile)
	c.set(func() {
		c.pid = cmd.Process.Pid
		c.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}
	})

	ended := make(chan struct{})
	probeCtx, stopProbes := context.WithCancel(c.p.ctx)
	go c.followReadiness(probeCtx, cmd.Process.Pid)
	go func() {
		select {
		case <-ended:
			return
		case <-c.p.ctx.Done():
		}
		grace := c.p.k.maxGrace
		if g := c.p.obj.Spec.TerminationGracePeriodSeconds; g != nil {
			grace = min(grace, time.Duration(*g)*time.Second)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(grace):
			_ = cmd.Process.Kill()
		}
	}()
	_ = cmd.Wait()
	close(ended)
	stopProbes()
	w.flush()
	code := cmd.ProcessState.ExitCode()
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	c.set(func() {
		c.pid, c.ready = 0, false
		c.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: int32(code), Reason: reason, StartedAt: started, FinishedAt: metav1.Now(),
		}}
		c.last = c.state
	})
	return code, nil
}

// eager is the probe period while a container is not ready: shorter than pods
// ask for, because tests wait for it.
const eager = 200 * time.Millisecond

// followReadiness sets the ready flag. Without a probe a real kubelet calls a
// container ready at once; this one first waits (up to two seconds) until the
// pod has a listening socket, so that a test never races the program's start.
func (c *container) followReadiness(ctx context.Context, pid int) {
	setReady := func(v bool) {
		if ctx.Err() == nil && c.ready != v {
			c.set(func() { c.ready = v })
		}
	}
	probe := c.spec.ReadinessProbe
	if c.spec.StartupProbe != nil {
		for c.probe(ctx, c.spec.StartupProbe, pid) != nil {
			if !sleep(ctx, eager) {
				return
			}
		}
	}
	if probe == nil {
		if !c.init {
			for end := time.Now().Add(2 * time.Second); !listening(pid) && time.Now().Before(end); {
				if !sleep(ctx, 20*time.Millisecond) {
					return
				}
			}
		}
		setReady(!c.init || c.sidecar())
		return
	}
	failures := int32(0)
	for ctx.Err() == nil {
		if err := c.probe(ctx, probe, pid); err == nil {
			failures = 0
			setReady(true)
		} else if failures++; failures >= max(1, probe.FailureThreshold) {
			setReady(false)
		}
		period := time.Duration(max(1, probe.PeriodSeconds)) * time.Second
		if !c.ready {
			period = eager
		}
		sleep(ctx, period)
	}
}

// listening reports whether the process's network namespace has a TCP listener
// or a bound UDP socket.
func listening(pid int) bool {
	for file, state := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		for _, line := range strings.Split(string(b), "\n") {
			if f := strings.Fields(line); len(f) > 3 && f[3] == state {
				return true
			}
		}
	}
	return false
}

// probe runs one httpGet, tcpSocket or exec probe. gRPC probes are treated as
// tcpSocket.
func (c *container) probe(ctx context.Context, pr *corev1.Probe, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(1, pr.TimeoutSeconds))*time.Second)
	defer cancel()
	dial := func(host string, port int) error {
		if host == "" {
			host = c.p.ip4
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			conn.Close()
		}
		return err
	}
	switch {
	case pr.HTTPGet != nil:
		host := pr.HTTPGet.Host
		if host == "" {
			host = c.p.ip4
		}
		scheme := strings.ToLower(string(pr.HTTPGet.Scheme))
		if scheme == "" {
			scheme = "http"
		}
		url := fmt.Sprintf("%s://%s/%s", scheme, net.JoinHostPort(host, strconv.Itoa(c.port(pr.HTTPGet.Port))), strings.TrimPrefix(pr.HTTPGet.Path, "/"))
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		for _, h := range pr.HTTPGet.HTTPHeaders {
			req.Header.Add(h.Name, h.Value)
		}
		resp, err := (&http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		}}).Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode < 200 || resp.StatusCode >= 400 {
			return errors.New(resp.Status)
		}
		return nil
	case pr.TCPSocket != nil:
		return dial(pr.TCPSocket.Host, c.port(pr.TCPSocket.Port))
	case pr.GRPC != nil:
		return dial("", int(pr.GRPC.Port))
	case pr.Exec != nil:
		return enter(ctx, pid, pr.Exec.Command).Run()
	}
	return nil
}

func (c *container) port(p intstr.IntOrString) int {
	if p.Type == intstr.Int {
		return p.IntValue()
	}
	for _, cp := range c.spec.Ports {
		if cp.Name == p.StrVal {
			return int(cp.ContainerPort)
		}
	}
	n, _ := strconv.Atoi(p.StrVal)
	return n
}

// enter returns a command that runs argv inside a container, with the
// environment of the container's first process.
func enter(ctx context.Context, pid int, argv []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(pid), "-m", "-u", "-n", "-p", "-r", "-w", "--"}, argv...)...)
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	cmd.Env = strings.Split(strings.TrimRight(string(env), "\x00"), "\x00")
	return cmd
}

// logWriter writes complete lines, each with the time it was written.
type logWriter struct {
	mu  sync.Mutex
	w   *os.File
	buf []byte
}

func (l *logWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, b...)
	for {
		i := bytes.IndexByte(l.buf, '\n')
		if i < 0 {
			return len(b), nil
		}
		l.line(l.buf[:i+1])
		l.buf = l.buf[i+1:]
	}
}

func (l *logWriter) line(b []byte) {
	_, _ = l.w.Write(append([]byte(time.Now().UTC().Format(logTime)+" "), b...))
}

func (l *logWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) > 0 {
		l.line(append(l.buf, '\n'))
		l.buf = nil
	}
}

// containSpec translates the container's spec.
func (c *container) containSpec(img *image) (*containSpec, error) {
	s := &containSpec{
		NetNS: c.p.netns(), Root: c.p.dir("root-" + c.spec.Name), Hostname: c.p.obj.Name,
		Namespace: c.p.obj.Namespace, PodIP: c.p.ip4, WorkDir: c.spec.WorkingDir,
	}
	if err := os.MkdirAll(s.Root, 0o755); err != nil {
		return nil, err
	}
	for dst, src := range img.Files {
		s.Mounts = append(s.Mounts, mount{Source: src, Target: dst, ReadOnly: true})
	}
	env := []corev1.EnvVar{
		{Name: "PATH", Value: containerPath}, {Name: "HOME", Value: "/root"},
		{Name: "HOSTNAME", Value: c.p.obj.Name},
		{Name: "KUBERNETES_SERVICE_HOST", Value: "10.96.0.1"}, {Name: "KUBERNETES_SERVICE_PORT", Value: "443"},
		{Name: "KUBERNETES_SERVICE_PORT_HTTPS", Value: "443"},
	}
	for k, v := range img.Env {
		env = append(env, corev1.EnvVar{Name: k, Value: v})
	}
	values, err := c.environment(env)
	if err != nil {
		return nil, err
	}
	for k, v := range values {
		s.Env = append(s.Env, k+"="+v)
	}
	expand := func(in []string) (out []string) {
		for _, a := range in {
			out = append(out, expandVars(a, values))
		}
		return out
	}
	s.Argv = img.Entrypoint
	if len(c.spec.Command) > 0 {
		s.Argv = expand(c.spec.Command)
	}
	s.Argv = append(append([]string{}, s.Argv...), expand(c.spec.Args)...)
	if len(s.Argv) == 0 {
		return nil, fmt.Errorf("image %s has no entrypoint in the image map", c.spec.Image)
	}
	for _, m := range c.spec.VolumeMounts {
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expandVars(m.SubPathExpr, values)
		}
		src, err := c.p.volumePath(m.Name)
		if err != nil {
			return nil, err
		}
		s.Mounts = append(s.Mounts, mount{Source: filepath.Join(src, sub), Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	return s, nil
}

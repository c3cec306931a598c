package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Addresses in the network namespace of the rig. Nothing outside the namespace
// can reach them, so they never clash with the host or with another rig.
const (
	nodeIP      = "10.244.0.1" // the bridge: kube-apiserver, kubelet, "the node"
	nodeIP6     = "fd00:244::1"
	podCIDR     = "10.244.0.0/16"
	podCIDR6    = "fd00:244::/64"
	gatewayCIDR = "10.245.0.0/16" // any local process may bind any address in it
	serviceCIDR = "10.96.0.0/16"
	clusterDNS  = "10.96.0.10"

	apiserverPort = "6443"
	kubeletPort   = 10250
	nodeName      = "rig-node"
	bridge        = "br0"
)

// rig is the state directory that every command shares: keys, logs, the data
// of etcd, volumes of pods. Programs are found on PATH.
type rig struct {
	dir string
}

func (r *rig) flags(fs *flag.FlagSet) {
	fs.StringVar(&r.dir, "dir", "rig-state", "state directory")
}

// parse reads the flags and makes the directory absolute, because children run
// with other working directories.
func (r *rig) parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	abs, err := filepath.Abs(r.dir)
	if err != nil {
		return err
	}
	r.dir = abs
	return nil
}

func (r *rig) path(elem ...string) string { return filepath.Join(append([]string{r.dir}, elem...)...) }
func (r *rig) kubeconfig() string         { return r.path("kubeconfig") }

// config is a client configuration for the administrator, without the usual
// limit on the rate of requests.
func (r *rig) config() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", r.kubeconfig())
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 200, 400
	return cfg, nil
}

// inside returns a command line that runs argv in the network namespace of a
// running rig.
func (r *rig) inside(argv ...string) ([]string, error) {
	b, err := os.ReadFile(r.path("pid"))
	if err != nil {
		return nil, fmt.Errorf("no rig runs in %s: %w", r.dir, err)
	}
	enter := []string{"nsenter", "--target", string(b), "--net"}
	if os.Geteuid() != 0 {
		enter = append(enter, "--user", "--preserve-credentials")
	}
	return append(append(enter, "--"), argv...), nil
}

// env is what a command in the rig gets.
func (r *rig) env() []string { return append(os.Environ(), "KUBECONFIG="+r.kubeconfig()) }

// cmdExec becomes the command, so that its process id is that of kube-rig.
func cmdExec(args []string) error {
	var r rig
	fs := flag.NewFlagSet("exec", flag.ExitOnError)
	r.flags(fs)
	if err := r.parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return fmt.Errorf("no command: kube-rig exec [flags] -- command args")
	}
	argv, err := r.inside(fs.Args()...)
	if err != nil {
		return err
	}
	return become(argv, r.env())
}

// become replaces this process by another program.
func become(argv, env []string) error {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", program, syscall.Exec(program, argv, env))
}

// sh runs a command and puts its output into the error.
func sh(argv ...string) error {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// waitFor polls until check returns nil or the time is over.
func waitFor(what string, limit time.Duration, check func() error) error {
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s not ready after %s: %w", what, limit, err)
}

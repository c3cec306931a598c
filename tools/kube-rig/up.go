package main

import (
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Only the controllers that a gateway and its tests need.
var controllers = []string{
	"deployment-controller", "replicaset-controller", "statefulset-controller", "daemonset-controller",
	"job-controller", "endpointslice-controller", "endpointslice-mirroring-controller",
	"endpoints-controller", "serviceaccount-controller", "serviceaccount-token-controller",
	"root-ca-certificate-publisher-controller", "namespace-controller", "garbage-collector-controller",
	"clusterrole-aggregation-controller", "disruption-controller", "ttl-after-finished-controller",
}

// auditPolicy logs every write, and no bodies.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, verbs: [create, update, patch, delete, deletecollection]}
  - {level: None}
`

//go:embed images.yaml
var defaultImages []byte

type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, ",") }
func (l *stringList) Set(s string) error { *l = append(*l, s); return nil }

// cmdUp becomes up-inside in a network namespace of its own, which goes away
// with the last process in it. Without root it takes a user namespace as well.
func cmdUp(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := []string{"unshare", "--net"}
	if os.Geteuid() != 0 {
		argv = append(argv, "--user", "--map-root-user")
	}
	return become(append(append(argv, "--", self, "up-inside"), args...), os.Environ())
}

func cmdUpInside(args []string) error {
	var r rig
	var apply, apiserver stringList
	fs := flag.NewFlagSet("up", flag.ExitOnError)
	r.flags(fs)
	images := fs.String("images", "", "image map: which local program stands for which image (default: those of the suite)")
	apiOnly := fs.Bool("api-only", false, "etcd and kube-apiserver only: no controllers and no pods")
	remove := fs.Bool("rm", false, "remove the state directory at the end")
	verbosity := fs.String("v", "1", "log level of the Kubernetes components")
	fs.Var(&apiserver, "apiserver-arg", "argument of kube-apiserver, after those of the rig (repeatable)")
	fs.Var(&apply, "apply", "file or directory of objects to apply once the API is ready (repeatable)")
	if err := r.parse(fs, args); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop <- syscall.SIGTERM
	}()
	if err := r.fresh(); err != nil {
		return err
	}
	ps := &processes{rig: &r, pids: map[string]int{}}
	defer func() {
		ps.end()
		endOthers()
		if *remove {
			_ = os.RemoveAll(r.dir)
			return
		}
		_ = os.Remove(r.path("pid"))
	}()
	up := make(chan error, 1)
	go func() { up <- r.up(ps, *images, *apiOnly, *verbosity, apiserver, apply) }()
	select {
	case err := <-up:
		if err != nil {
			return err
		}
	case <-stop:
		return errors.New("stopped before the cluster was ready")
	}
	<-stop
	return nil
}

// fresh empties the state directory: a cluster always starts empty.
func (r *rig) fresh() error {
	if b, err := os.ReadFile(r.path("pid")); err == nil {
		if pid, err := strconv.Atoi(string(b)); err == nil && syscall.Kill(pid, 0) == nil {
			return fmt.Errorf("a rig (process %d) already runs in %s", pid, r.dir)
		}
	}
	for _, d := range []string{"etcd", "pki", "logs", "pods"} {
		if err := os.RemoveAll(r.path(d)); err != nil {
			return err
		}
		if err := os.MkdirAll(r.path(d), 0o700); err != nil {
			return err
		}
	}
	return os.WriteFile(r.path("pid"), []byte(strconv.Itoa(os.Getpid())), 0o644)
}

func (r *rig) up(ps *processes, images string, apiOnly bool, verbosity string, apiserver, apply []string) error {
	begin := time.Now()
	step := func(format string, a ...any) {
		fmt.Printf("%6.2fs  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, a...))
	}
	if err := makeNetwork(); err != nil {
		return err
	}
	if err := r.writePKI(); err != nil {
		return err
	}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret)
	token := hex.EncodeToString(secret)
	pki := func(f string) string { return r.path("pki", f) }
	for file, text := range map[string]string{
		pki("tokens.csv"):  token + ",rig-admin,rig-admin,system:masters\n",
		pki("audit.yaml"):  auditPolicy,
		pki("images.yaml"): string(defaultImages),
		r.kubeconfig():     r.kubeconfigFor(token),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	// Losing data is fine here, so etcd does not wait for the disk.
	if err := ps.start("etcd", "etcd", "--data-dir", r.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380"); err != nil {
		return err
	}
	if err := ps.start("kube-apiserver", append([]string{"kube-apiserver",
		"--etcd-servers", "http://127.0.0.1:2379",
		"--bind-address", "0.0.0.0", "--advertise-address", nodeIP, "--secure-port", apiserverPort,
		"--tls-cert-file", pki("apiserver.crt"), "--tls-private-key-file", pki("apiserver.key"),
		"--client-ca-file", pki("ca.crt"), "--token-auth-file", pki("tokens.csv"),
		"--authorization-mode", "RBAC", "--allow-privileged", "--cert-dir", r.path("pki"),
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file", pki("sa.pub"), "--service-account-signing-key-file", pki("sa.key"),
		"--service-cluster-ip-range", serviceCIDR,
		"--audit-policy-file", pki("audit.yaml"), "--audit-log-path", r.path("logs", "audit.log"),
		"--kubelet-certificate-authority", pki("ca.crt"),
		"--kubelet-client-certificate", pki("kubelet-client.crt"), "--kubelet-client-key", pki("kubelet-client.key"),
		"--kubelet-preferred-address-types", "InternalIP", "--v", verbosity}, apiserver...)...); err != nil {
		return err
	}
	cfg, err := r.config()
	if err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	if err := waitFor("kube-apiserver", patience, func() error { return serverReady(clients) }); err != nil {
		return fmt.Errorf("%w (see %s)", err, r.path("logs", "kube-apiserver.log"))
	}
	objects, err := client.New(cfg, client.Options{})
	if err != nil {
		return err
	}
	if err := r.serveGate(cfg, objects); err != nil {
		return err
	}
	step("kube-apiserver ready")
	if !apiOnly {
		if images == "" {
			images = pki("images.yaml")
		}
		if err := r.startNode(ps, images, verbosity); err != nil {
			return err
		}
	}
	for _, path := range apply {
		n, err := applyPath(objects, path)
		if err != nil {
			return err
		}
		step("%d objects of %s applied", n, path)
	}
	if !apiOnly {
		if err := waitFor("node and default service account", patience, func() error { return nodeReady(clients) }); err != nil {
			return err
		}
		step("node ready, controllers running")
	}
	fmt.Printf("ready: kube-rig exec -dir %s -- COMMAND\n", r.dir)
	return nil
}

// startNode starts what runs pods and makes endpoints of them.
func (r *rig) startNode(ps *processes, images, verbosity string) error {
	if err := ps.start("kube-controller-manager", "kube-controller-manager",
		"--kubeconfig", r.kubeconfig(), "--leader-elect=false",
		"--controllers", strings.Join(controllers, ","),
		"--root-ca-file", r.path("pki", "ca.crt"), "--service-account-private-key-file", r.path("pki", "sa.key"),
		"--bind-address", "127.0.0.1", "--kube-api-qps", "200", "--kube-api-burst", "400",
		"--v", verbosity); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return ps.start("kubelet", self, "kubelet", "-dir", r.dir, "-images", images)
}

// makeNetwork sets up the network namespace that this process is in. It has no
// way out: its only links are loopback and a bridge to the pods.
func makeNetwork() error {
	for _, l := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", bridge, "type", "bridge"},
		{"ip", "addr", "add", nodeIP + "/16", "dev", bridge},
		{"ip", "-6", "addr", "add", nodeIP6 + "/64", "dev", bridge, "nodad"},
		{"ip", "link", "set", bridge, "up"},
		// "local" routes make every address of the range an own address of the
		// namespace, so a gateway can bind any of them without set-up.
		{"ip", "route", "add", "local", gatewayCIDR, "dev", "lo"},
		{"ip", "route", "add", "local", serviceCIDR, "dev", "lo"},
		// Pods reach Services and gateways through the bridge.
		{"sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.ip_unprivileged_port_start=0"},
	} {
		if err := sh(l...); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) kubeconfigFor(token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: rig
contexts: [{name: rig, context: {cluster: rig, user: rig-admin}}]
clusters: [{name: rig, cluster: {server: "https://%s:%s", certificate-authority: "%s"}}]
users: [{name: rig-admin, user: {token: "%s"}}]
`, nodeIP, apiserverPort, r.path("pki", "ca.crt"), token)
}

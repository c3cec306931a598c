package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"
)

// kubelet stands in for kube-scheduler and kubelet (this file, pod.go,
// container.go, volumes.go, kubeletapi.go), for kube-proxy and a cloud load
// balancer (services.go) and for the cluster DNS (dns.go). It must run inside
// the rig's network namespace but in the host's mount and pid namespaces.
type kubelet struct {
	rig
	client   kubernetes.Interface
	images   []image
	maxGrace time.Duration

	mu     sync.Mutex
	pods   map[types.UID]*pod
	nextIP int
	wg     sync.WaitGroup
}

// An image says which local files stand for a container image.
type image struct {
	// Match is compared with the image name without tag and digest.
	Match string `json:"match"`
	// Files maps a path in the container to a local file or directory; what
	// is no absolute path is a program on PATH. Put programs in /image: it
	// comes first in the container's PATH and is not a host directory.
	Files map[string]string `json:"files"`
	// Entrypoint is used when the pod gives no command.
	Entrypoint []string `json:"entrypoint"`
	// Env is added before the pod's own environment.
	Env map[string]string `json:"env"`
}

func (k *kubelet) image(name string) *image {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	for i := range k.images {
		if m := k.images[i].Match; name == m || strings.HasSuffix(name, "/"+m) {
			return &k.images[i]
		}
	}
	return nil
}

func cmdKubelet(args []string) error {
	k := &kubelet{pods: map[types.UID]*pod{}, nextIP: 256}
	fs := flag.NewFlagSet("kubelet", flag.ExitOnError)
	k.flags(fs)
	images := fs.String("images", "", "image map")
	fs.DurationVar(&k.maxGrace, "max-grace", 2*time.Second, "upper limit for a pod's termination grace period")
	if err := k.parse(fs, args); err != nil {
		return err
	}
	b, err := os.ReadFile(*images)
	if err != nil {
		return err
	}
	var file struct {
		Images []image `json:"images"`
	}
	if err := yaml.UnmarshalStrict(b, &file); err != nil {
		return fmt.Errorf("%s: %w", *images, err)
	}
	k.images = file.Images
	for _, im := range k.images {
		for dst, src := range im.Files {
			if filepath.IsAbs(src) {
				continue
			}
			// Without the program, pods of this image do not start.
			if program, err := exec.LookPath(src); err == nil {
				im.Files[dst] = program
			}
		}
	}

	cfg, err := k.config()
	if err != nil {
		return err
	}
	if k.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	if err := k.serveAPI(); err != nil {
		return err
	}
	if err := k.registerNode(ctx); err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(k.client, 0)
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.podChanged(ctx, o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { k.podChanged(ctx, o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = t.Obj
			}
			k.podGone(o.(*corev1.Pod).UID)
		},
	}); err != nil {
		return err
	}
	proxy := newServiceProxy(k.client, factory)
	go proxy.run(ctx)
	if err := serveDNS(proxy); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	log.Print("running")
	<-ctx.Done()
	k.mu.Lock()
	for _, p := range k.pods {
		p.cancel()
	}
	k.mu.Unlock()
	k.wg.Wait()
	return nil
}

// registerNode creates the one node. Nothing watches its heartbeat: the rig
// does not run the node lifecycle controller.
func (k *kubelet) registerNode(ctx context.Context) error {
	quantity := resource.MustParse
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: quantity("1000"), corev1.ResourceMemory: quantity("1000Gi"),
		corev1.ResourcePods: quantity("10000"), corev1.ResourceEphemeralStorage: quantity("1000Gi"),
	}
	nodes := k.client.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: nodeName,
		Labels: map[string]string{
			corev1.LabelHostname: nodeName, corev1.LabelOSStable: "linux",
			corev1.LabelArchStable: runtime.GOARCH, corev1.LabelTopologyZone: "rig-zone",
			corev1.LabelTopologyRegion: "rig-region",
		},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		node, err = nodes.Get(ctx, nodeName, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	now := metav1.Now()
	node.Status = corev1.NodeStatus{
		Capacity: capacity, Allocatable: capacity,
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: nodeIP}, {Type: corev1.NodeHostName, Address: nodeName},
		},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
			Message: "stand-in kubelet", LastHeartbeatTime: now, LastTransitionTime: now,
		}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: kubeletPort}},
		NodeInfo: corev1.NodeSystemInfo{
			OperatingSystem: "linux", Architecture: runtime.GOARCH,
			ContainerRuntimeVersion: "kube-rig://processes", KubeletVersion: "v0.0.0-kube-rig",
		},
	}
	if node, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	node.Spec.Taints = nil // admission adds not-ready to every new node
	_, err = nodes.Update(ctx, node, metav1.UpdateOptions{})
	return err
}

// podChanged schedules new pods, starts pods of this node and stops pods that
// are being deleted.
func (k *kubelet) podChanged(ctx context.Context, obj *corev1.Pod) {
	switch {
	case obj.Spec.NodeName == "" && obj.DeletionTimestamp == nil:
		go func() {
			err := k.client.CoreV1().Pods(obj.Namespace).Bind(ctx, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: obj.Name, Namespace: obj.Namespace, UID: obj.UID},
				Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName},
			}, metav1.CreateOptions{})
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				log.Printf("bind %s/%s: %v", obj.Namespace, obj.Name, err)
			}
		}()
	case obj.DeletionTimestamp != nil:
		if !k.podGone(obj.UID) { // never started here: nothing to wait for
			go k.forget(obj)
		}
	case obj.Spec.NodeName == nodeName && obj.Status.Phase != corev1.PodSucceeded && obj.Status.Phase != corev1.PodFailed:
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.pods[obj.UID] != nil || ctx.Err() != nil {
			return
		}
		p := newPod(ctx, k, obj)
		k.pods[obj.UID] = p
		k.wg.Add(1)
		go func() {
			defer k.wg.Done()
			p.run()
			k.mu.Lock()
			delete(k.pods, obj.UID)
			k.mu.Unlock()
			if ctx.Err() == nil {
				k.forget(obj)
			}
		}()
	}
}

// podGone tells the pod's goroutine to stop. It reports whether there is one.
func (k *kubelet) podGone(uid types.UID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pods[uid]
	if p != nil {
		p.cancel()
	}
	return p != nil
}

// forget removes the API object of a stopped pod, if it is marked for deletion.
func (k *kubelet) forget(obj *corev1.Pod) {
	ctx := context.Background()
	cur, err := k.client.CoreV1().Pods(obj.Namespace).Get(ctx, obj.Name, metav1.GetOptions{})
	if err != nil || cur.UID != obj.UID || cur.DeletionTimestamp == nil {
		return
	}
	zero := int64(0)
	_ = k.client.CoreV1().Pods(obj.Namespace).Delete(ctx, obj.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &obj.UID},
	})
}

// find returns the running pod with this name, for the logs and exec requests.
func (k *kubelet) find(namespace, name string) *pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.pods {
		if p.obj.Namespace == namespace && p.obj.Name == name {
			return p
		}
	}
	return nil
}

// newIPs hands out the next pod addresses. They are not reused: a test must
// never see a new pod on an address that a gateway still has in its tables.
func (k *kubelet) newIPs() (n int, ip4, ip6 string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.nextIP++; k.nextIP&0xff == 0 || k.nextIP&0xff == 0xff; k.nextIP++ {
	}
	n = k.nextIP
	return n, fmt.Sprintf("10.244.%d.%d", n>>8, n&0xff), fmt.Sprintf("fd00:244::%x", n)
}

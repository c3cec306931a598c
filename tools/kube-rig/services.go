package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os/exec"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// serviceProxy stands in for kube-proxy and for a cloud's load balancer: it
// gives every LoadBalancer Service an address of the gateway range and writes
// nftables DNAT rules for cluster and load balancer addresses.
type serviceProxy struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	changed  chan struct{}
	synced   []cache.InformerSynced
	assigned map[string]netip.Addr // load balancer address by namespace/name
	next     netip.Addr
	rules    string
}

func newServiceProxy(client kubernetes.Interface, factory informers.SharedInformerFactory) *serviceProxy {
	s := &serviceProxy{
		client:   client,
		services: factory.Core().V1().Services().Lister(),
		slices:   factory.Discovery().V1().EndpointSlices().Lister(),
		changed:  make(chan struct{}, 1),
		assigned: map[string]netip.Addr{},
		next:     netip.MustParseAddr("10.245.1.0"), // below: free for static use
	}
	kick := func() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	h := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { kick() }, UpdateFunc: func(any, any) { kick() }, DeleteFunc: func(any) { kick() },
	}
	for _, inf := range []cache.SharedIndexInformer{
		factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer(),
	} {
		_, _ = inf.AddEventHandler(h)
		s.synced = append(s.synced, inf.HasSynced)
	}
	return s
}

func (s *serviceProxy) run(ctx context.Context) {
	cache.WaitForCacheSync(ctx.Done(), s.synced...)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		sleep(ctx, 20*time.Millisecond) // let a burst of changes collect
		if err := s.sync(ctx); err != nil && ctx.Err() == nil {
			log.Printf("services: %v", err)
		}
	}
}

// endpoints lists the ready endpoints of one service port as addr:port.
func (s *serviceProxy) endpoints(svc *corev1.Service, port string) []netip.AddrPort {
	list, _ := s.slices.EndpointSlices(svc.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: svc.Name}))
	var out []netip.AddrPort
	for _, sl := range list {
		if sl.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, p := range sl.Ports {
			if p.Port == nil || p.Name == nil && port != "" || p.Name != nil && *p.Name != port {
				continue
			}
			for _, e := range sl.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				for _, a := range e.Addresses {
					if ip, err := netip.ParseAddr(a); err == nil {
						out = append(out, netip.AddrPortFrom(ip, uint16(*p.Port)))
					}
				}
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Compare(out[j]) < 0 })
	return out
}

func (s *serviceProxy) sync(ctx context.Context) error {
	list, err := s.services.List(labels.Everything())
	if err != nil {
		return err
	}
	sort.Slice(list, func(i, j int) bool { return list[i].UID < list[j].UID })
	var b strings.Builder
	live := map[string]bool{}
	for _, svc := range list {
		var addrs []string
		if ip := svc.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
			addrs = append(addrs, ip)
		}
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			live[svc.Namespace+"/"+svc.Name] = true
			if ip, ok := s.loadBalancer(svc); ok {
				addrs = append(addrs, ip)
			}
		}
		addrs = append(addrs, svc.Spec.ExternalIPs...)
		for _, p := range svc.Spec.Ports {
			eps := s.endpoints(svc, p.Name)
			if len(eps) == 0 || p.Protocol == corev1.ProtocolSCTP {
				continue // nobody listens: the kernel refuses the connection
			}
			var targets []string
			for i, e := range eps {
				targets = append(targets, fmt.Sprintf("%d : %s . %d", i, e.Addr(), e.Port()))
			}
			for _, a := range addrs {
				fmt.Fprintf(&b, "    ip daddr %s %s dport %d dnat ip addr . port to numgen random mod %d map { %s }\n",
					a, strings.ToLower(string(p.Protocol)), p.Port, len(eps), strings.Join(targets, ", "))
			}
		}
	}
	for name := range s.assigned {
		if !live[name] {
			delete(s.assigned, name)
		}
	}
	if b.String() != s.rules {
		if err := load(ctx, b.String()); err != nil {
			return err
		}
		s.rules = b.String()
	}
	// An address works once it is published.
	for _, svc := range list {
		if ip, ok := s.assigned[svc.Namespace+"/"+svc.Name]; ok && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			s.publish(ctx, svc, ip)
		}
	}
	return nil
}

func load(ctx context.Context, rules string) error {
	script := `table ip kube_rig
delete table ip kube_rig
table ip kube_rig {
  chain services {
` + rules + `  }
  chain pre { type nat hook prerouting priority -100; jump services; }
  chain out { type nat hook output priority -100; jump services; }
  chain post { type nat hook postrouting priority 100; ct status dnat masquerade; }
}
`
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// loadBalancer gives the service an address of the gateway range. A requested
// address outside the range stays pending, like an address that a cloud does
// not own.
func (s *serviceProxy) loadBalancer(svc *corev1.Service) (string, bool) {
	name := svc.Namespace + "/" + svc.Name
	ip, ok := s.assigned[name]
	if want := svc.Spec.LoadBalancerIP; want != "" {
		var err error
		ip, err = netip.ParseAddr(want)
		if err != nil || !netip.MustParsePrefix(gatewayCIDR).Contains(ip) {
			delete(s.assigned, name)
			return "", false
		}
	} else if !ok {
		s.next = s.next.Next()
		ip = s.next
	}
	s.assigned[name] = ip
	return ip.String(), true
}

// publish writes the address of a service into its status.
func (s *serviceProxy) publish(ctx context.Context, svc *corev1.Service, ip netip.Addr) {
	ing := svc.Status.LoadBalancer.Ingress
	if len(ing) != 1 || ing[0].IP != ip.String() {
		upd := svc.DeepCopy()
		upd.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip.String()}}
		if _, err := s.client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, upd, metav1.UpdateOptions{}); err != nil {
			log.Printf("load balancer %s/%s: %v", svc.Namespace, svc.Name, err)
		}
	}
}

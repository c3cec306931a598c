package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// serveGate opens the way in from outside the network namespace: the Unix
// socket <dir>/socket. A CONNECT request reaches any TCP address of the rig;
// /rig/apply and /rig/delete take objects as YAML; every other request goes to
// kube-apiserver as the administrator.
func (r *rig) serveGate(cfg *rest.Config, c client.Client) error {
	target, err := url.Parse(cfg.Host)
	if err != nil {
		return err
	}
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		return err
	}
	api := &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1, // watches
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	_ = os.Remove(r.path("socket"))
	l, err := net.Listen("unix", r.path("socket"))
	if err != nil {
		return err
	}
	if err := os.Chmod(r.path("socket"), 0o600); err != nil {
		return err
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.Method == http.MethodConnect:
				connect(w, req.Host)
			case req.URL.Path == "/rig/apply":
				each(w, req, c, apply)
			case req.URL.Path == "/rig/delete":
				each(w, req, c, remove)
			default:
				api.ServeHTTP(w, req)
			}
		}))
	}()
	return nil
}

// each does the same with every object of the request's body.
func each(w http.ResponseWriter, req *http.Request, c client.Client, do func(context.Context, client.Client, *unstructured.Unstructured) error) {
	objects, err := readObjects(req.Body)
	for i := 0; err == nil && i < len(objects); i++ {
		if err = do(req.Context(), c, objects[i]); err != nil {
			err = fmt.Errorf("%s: %w", name(objects[i]), err)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	}
}

func connect(w http.ResponseWriter, address string) {
	to, err := net.Dial("tcp", address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	from, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		to.Close()
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		to.Close()
		from.Close()
		return
	}
	var up sync.WaitGroup
	up.Go(func() { relay(to, buffered, from) })
	relay(from, to, to)
	up.Wait()
	to.Close()
	from.Close()
}

// relay copies until the end of the stream, which it passes on. A connection
// that breaks ends the other direction, too.
func relay(dst net.Conn, src io.Reader, from net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		from.Close()
		return
	}
	if half, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// The API server as hubs see it; a cut link cuts this address only.
	hubServerHost = "10.244.0.1"
	hubServer     = "https://" + hubServerHost + ":6443"
	// The API server as this program sees it.
	ownServer = "https://127.0.0.1:6443"

	agent = "kubelet/v1.34.0 (linux/amd64) kubernetes/0000000"
)

// The encodings that clients ask for.
const (
	asJSON     = "application/json"
	asProtobuf = "application/vnd.kubernetes.protobuf,application/json"
)

// endpoint is a base URL, and how to connect to it.
type endpoint struct {
	base  string
	token string
	tls   *tls.Config
	http2 bool
}

// api is the API server itself, as the administrator.
type api struct {
	endpoint
	client *http.Client
}

func newAPI(state string) (*api, error) {
	tokens, err := os.ReadFile(filepath.Join(state, "pki", "tokens.csv"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(state, "pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	token, _, _ := strings.Cut(string(tokens), ",")
	e := endpoint{base: ownServer, token: token, tls: &tls.Config{RootCAs: roots}}
	return &api{endpoint: e, client: e.connection(30 * time.Second)}, nil
}

// asNode is how an agent without a hub connects: as client-go does, with one
// connection for all that it asks, on the link that is cut.
func (k *api) asNode() endpoint {
	e := k.endpoint
	e.base, e.http2 = hubServer, true
	return e
}

// connection is a client with connections of its own. It asks for no
// compression, so that hub and API server are asked alike. Without HTTP/2, all
// that is open needs a connection.
func (e endpoint) connection(timeout time.Duration) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!e.http2)
	protocols.SetHTTP2(e.http2)
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		// A transport writes its protocols into the configuration: each has its own.
		TLSClientConfig: e.tls.Clone(), DisableCompression: true, MaxIdleConnsPerHost: 16, Protocols: protocols,
		// The pings of client-go.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}}
}

func (e endpoint) request(ctx context.Context, method, path, accept string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, e.base+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("User-Agent", agent)
	if e.token != "" {
		r.Header.Set("Authorization", "Bearer "+e.token)
	}
	return r, nil
}

// get reads an answer to its end.
func (e endpoint) get(client *http.Client, path, accept string) (int, []byte, error) {
	r, err := e.request(context.Background(), "GET", path, accept, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// ok is get, for what must succeed.
func (e endpoint) ok(client *http.Client, path, accept string) ([]byte, error) {
	status, body, err := e.get(client, path, accept)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("GET %s: %d %.200s", path, status, body)
	}
	return body, err
}

// write sends an object. One that exists already is fine.
func (k *api) write(method, path string, object any) error {
	_, err := k.send(method, path, object)
	return err
}

// patch merges a change into an object, and returns what it is then.
func (k *api) patch(path string, change any) ([]byte, error) { return k.send("PATCH", path, change) }

func (k *api) send(method, path string, object any) ([]byte, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	r, err := k.request(context.Background(), method, path, asJSON, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", asJSON)
	if method == "PATCH" {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := k.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 && response.StatusCode != http.StatusConflict {
		err = fmt.Errorf("%s %s: %d %.300s", method, path, response.StatusCode, body)
	}
	return body, err
}

// mark writes a text into an annotation of an object.
func (k *api) mark(path, text string) error {
	_, err := k.patch(path, marked(text))
	return err
}

func marked(text string) any {
	return map[string]any{"metadata": map[string]any{"annotations": map[string]any{"mark": text}}}
}

// each calls make with 0 to n-1, from 12 goroutines.
func each(n int, make func(i int) error) error { return atOnce(12, n, make) }

// atOnce does so from as many goroutines as it is told.
func atOnce(goroutines, n int, make func(i int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	next := 0
	for range goroutines {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := failed != nil || i >= n
				mu.Unlock()
				if stop {
					return
				}
				if err := make(i); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// Command informer fills a store as every controller and kubelet does: with
// client-go's reflector, which begins with a streaming list. It prints what it
// has once it is synced, as one line of JSON, and ends.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/features"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

type synced struct {
	Milliseconds int64 `json:"milliseconds"`
	// Objects are resource versions by name.
	Objects map[string]string `json:"objects"`
	// Requests are the queries that were sent.
	Requests []string `json:"requests"`
}

// noted keeps the queries of requests.
type noted struct {
	http.RoundTripper
	mutex   *sync.Mutex
	queries *[]string
}

func (n noted) RoundTrip(request *http.Request) (*http.Response, error) {
	n.mutex.Lock()
	*n.queries = append(*n.queries, request.URL.RawQuery)
	n.mutex.Unlock()
	return n.RoundTripper.RoundTrip(request)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "informer: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	server := flag.String("server", "", "the URL of the API")
	encoding := flag.String("encoding", "application/json", "the media type of objects")
	limit := flag.Duration("limit", time.Minute, "how long it may take")
	flag.Parse()
	if !features.FeatureGates().Enabled(features.WatchListClient) {
		return fmt.Errorf("WatchListClient is off")
	}
	var mutex sync.Mutex
	var queries []string
	config := &rest.Config{
		Host:    *server,
		APIPath: "/api",
		ContentConfig: rest.ContentConfig{
			AcceptContentTypes:   *encoding + ",application/json",
			ContentType:          *encoding,
			GroupVersion:         &v1.SchemeGroupVersion,
			NegotiatedSerializer: scheme.Codecs.WithoutConversion(),
		},
		WrapTransport: func(inner http.RoundTripper) http.RoundTripper { return noted{inner, &mutex, &queries} },
	}
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	source := cache.NewListWatchFromClient(client, "configmaps", v1.NamespaceDefault, fields.Everything())
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source,
		ObjectType:    &v1.ConfigMap{},
		Handler:       cache.ResourceEventHandlerFuncs{},
	})
	go controller.RunWithContext(ctx)
	for !controller.HasSynced() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("not synced within %s", *limit)
		case <-time.After(time.Millisecond):
		}
	}
	result := synced{Milliseconds: time.Since(began).Milliseconds(), Objects: map[string]string{}}
	for _, object := range store.List() {
		about, err := meta.Accessor(object)
		if err != nil {
			return err
		}
		result.Objects[about.GetName()] = about.GetResourceVersion()
	}
	mutex.Lock()
	result.Requests = queries
	mutex.Unlock()
	return json.NewEncoder(os.Stdout).Encode(result)
}
